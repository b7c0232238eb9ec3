//! The snapshot file: what survives a reboot and a power loss.
//!
//! `layout.rs` says where everything is, `writer.rs` writes editions, `reader.rs` reads the
//! newest whole one. No file is opened here: I/O comes in as a [`Disk`]. The format is documented
//! in `docs/SNAPSHOT.md`.

mod disk;
mod entry;
mod layout;
mod reader;
mod writer;

pub use disk::{Disk, MemoryDisk};
pub use layout::{Sizes, SnapshotError};
pub use reader::{Loaded, Reader};
pub use writer::{Writer, Written};
