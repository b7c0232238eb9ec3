//! Waiting for what is meant, and threads that end with the test.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Waits until something holds, for at most ten seconds.
///
/// # Panics
///
/// If it does not hold within that time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "not within ten seconds: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Raises a flag when it is dropped, so that threads that wait for it end with a test that fails,
/// too.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Runs `measured` while another thread does `work` again and again; returns how often it did, and
/// in which time.
pub fn beside(mut work: impl FnMut() + Send, measured: impl FnOnce()) -> (u64, Duration) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let (start, mut rounds) = (Instant::now(), 0);
            while !stop.load(Relaxed) {
                work();
                rounds += 1;
            }
            (rounds, start.elapsed())
        });
        let running = StopOnDrop(&stop);
        measured();
        drop(running);
        worker.join().expect("the thread beside did not panic")
    })
}
