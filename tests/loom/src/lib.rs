//! The lock-free files of the engine, compiled once more with the atomics of the model checker
//! [loom](https://docs.rs/loom) in place of those of `std`, and models that drive them: every order
//! in which threads can act, and every value that a relaxed load can return.
//!
//! What loom leaves out: it treats sequentially consistent loads and stores as acquire and release
//! (their fences it knows), so the engine uses fences where that matters; and load buffering, which
//! no processor shows for code of this kind.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "the models use a part of what the files of the engine offer"
)]

pub use heartline::internals::clock;
pub use heartline_wire as wire;

/// Stands in for `src/sync.rs`.
pub mod sync {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, fence};

    /// Stands in for `src/client/sync.rs` as well: so few buffers that two publications disturb a
    /// reader.
    pub const BUFFERS: usize = 2;
    /// Each atomic costs the model checker.
    pub const CLASS_0_WORDS: usize = 2;

    /// The atomics of loom are larger than what they hold.
    pub const IS_MEMORY: bool = false;
}

/// The limits of the engine, but with few retries: every one of them multiplies the orders to be
/// tried.
pub mod limits {
    pub use heartline::internals::limits::*;

    /// Enough to be disturbed once and to be whole then.
    pub const READ_RETRIES: u32 = 2;
}

pub mod client {
    //! How a client's view reaches the threads that pick from it.

    pub mod models;
    #[path = "../../../../src/client/resolver/publish.rs"]
    mod publish;
}

pub mod engine {
    //! How loops and registrar sleep and wake one another.

    pub mod models;
    #[path = "../../../../src/engine/rendezvous.rs"]
    mod rendezvous;
}

pub mod region {
    //! What readers read without a lock while the registrar writes.

    #[path = "../../../../src/region/endpoint.rs"]
    mod endpoint;
    #[path = "../../../../src/region/feed.rs"]
    mod feed;
    #[path = "../../../../src/region/heart.rs"]
    mod heart;
    #[path = "../../../../src/region/heart_state.rs"]
    mod heart_state;
    #[path = "../../../../src/region/index.rs"]
    mod index;
    pub mod models;
    mod part;
    #[path = "../../../../src/region/prefetch.rs"]
    mod prefetch;
    #[path = "../../../../src/region/restored_line.rs"]
    mod restored_line;
    #[path = "../../../../src/region/right.rs"]
    mod right;
    #[path = "../../../../src/region/seqlock.rs"]
    mod seqlock;
    #[path = "../../../../src/region/service_number.rs"]
    mod service_number;
}
