//! What an engine of this machine knows, for any process that may read its public file: services,
//! members and events, without a system call, also while the engine is dead or being replaced.
//!
//! ```no_run
//! use heartline_region::{Choice, View};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut view = View::open(View::default_directory())?;
//! if let Some(service) = view.service("users")? {
//!     let mut seed = 1_u64;
//!     let draw = || {
//!         seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
//!         seed
//!     };
//!     println!("{:?}", service.pick(Choice::Random, draw)?.map(|member| member.address()));
//! }
//! let seen = view.head();
//! view.wait(seen, std::time::Duration::from_secs(1));
//! # Ok(())
//! # }
//! ```
//!
//! Readers trust the owner of the state directory: a process that cuts its file short under a
//! mapping ends the readers as well. Nothing in the file is believed beyond that: numbers are
//! bounds, names are compared, and what a writer disturbed is thrown away.

mod events;
mod files;
mod member;
mod service;

pub use events::{Events, Lost};
pub use member::Member;
pub use service::{Choice, Service};

use super::counters::{Counter, Counters};
use super::futex::Slept;
use super::hold::Hold;
use super::index::Disturbed;
use super::mapping::{Place, RegionError};
use super::run::boot_id;
use files::Files;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often somebody who waits looks whether another file lies in the place of the mapped one: an
/// engine that leaves its file says so and wakes the waiting, but a file can also be removed.
const LOOK: Duration = Duration::from_millis(250);

/// How [`View::wait`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The feed has another newest event.
    Events,
    /// Another file is mapped now: what was read before is to be read again.
    Moved,
    /// The time is over.
    Nothing,
}

/// The files of one engine, mapped read-only. Clones share the mapping: each thread has its own.
#[derive(Clone, Debug)]
pub struct View {
    directory: PathBuf,
    boot: [u8; 16],
    files: Arc<Files>,
}

impl View {
    /// The state directory of an engine of this user, unless it is configured otherwise.
    pub fn default_directory() -> PathBuf {
        Place::default_directory()
    }

    /// Maps what the engine with this state directory keeps there, or the last one kept.
    ///
    /// # Errors
    /// [`RegionError::Io`]: there is no such file, or it can't be read. [`RegionError::Refused`]:
    /// it is of another boot of the machine, format, layout or program.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, RegionError> {
        Self::open_in(directory.as_ref(), boot_id())
    }

    /// The same in a boot that is known.
    pub(super) fn open_in(directory: &Path, boot: [u8; 16]) -> Result<Self, RegionError> {
        let files = Arc::new(Files::open(directory, boot)?);
        Ok(Self { directory: directory.to_owned(), boot, files })
    }

    /// The state directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the engine has left the mapped file for good: [`Self::refresh`] finds the next.
    #[inline]
    pub fn is_left(&self) -> bool {
        self.files.tables.is_left()
    }

    /// Maps the file that lies in the place of the mapped one now, if there is another. `true`: it
    /// did. One system call when there is none.
    ///
    /// # Errors
    /// As for [`Self::open`]; what was mapped stays.
    pub fn refresh(&mut self) -> Result<bool, RegionError> {
        if !self.files.is_replaced(&self.directory) {
            return Ok(false);
        }
        self.files = Arc::new(Files::open(&self.directory, self.boot)?);
        Ok(true)
    }

    /// Sleeps until the newest event is another than `seen`, another file is there and mapped, or
    /// the time is over. Events wake at once; a file that was removed by others is noticed within
    /// 250 ms. It can end early: by a signal, or when an engine starts.
    pub fn wait(&mut self, seen: u64, timeout: Duration) -> Waited {
        let (mut left, mut woken) = (timeout, false);
        loop {
            // A file that is refused is none to go over to.
            if self.refresh().unwrap_or(false) {
                return Waited::Moved;
            }
            if self.head() != seen {
                return Waited::Events;
            }
            if woken || left.is_zero() {
                return Waited::Nothing;
            }
            let slice = left.min(LOOK);
            woken = self.files.tables.wait(seen, slice) == Slept::Woken;
            left -= slice;
        }
    }

    /// The service with this name. No system call, no allocation.
    ///
    /// # Errors
    /// [`Disturbed`]: the engine changed the service during each try, died while it did, or makes
    /// its tables anew after a death.
    #[inline]
    pub fn service(&self, name: &str) -> Result<Option<Service<'_>>, Disturbed> {
        Service::find(&self.files, name)
    }

    /// The listed members of a service, those that are up or suspect, all of one moment. Keep a
    /// vector and use [`Service::fill`] to allocate nothing.
    ///
    /// # Errors
    /// As for [`Self::service`].
    pub fn members(&self, service: &str) -> Result<Vec<Member>, Disturbed> {
        let mut members = Vec::new();
        if let Some(service) = self.service(service)? {
            service.fill(&mut members)?;
        }
        Ok(members)
    }

    /// One instance of a service, whatever its state.
    ///
    /// # Errors
    /// As for [`Self::service`].
    pub fn instance(&self, service: &str, instance: &str) -> Result<Option<Member>, Disturbed> {
        self.service(service)?.map_or(Ok(None), |service| service.instance(instance))
    }

    /// Version of the list of services, and how many have instances.
    ///
    /// # Errors
    /// As for [`Self::service`].
    pub fn services(&self) -> Result<(u64, u32), Disturbed> {
        self.files.tables.service_count()
    }

    /// The hold that is on.
    ///
    /// # Errors
    /// As for [`Self::service`].
    pub fn hold(&self) -> Result<Option<Hold>, Disturbed> {
        self.files.tables.hold()
    }

    /// The number of the engine's run, the last one's if none runs. `None`: one starts.
    pub fn epoch(&self) -> Option<u64> {
        Some(self.counters().sum(Counter::Epoch)).filter(|&epoch| epoch != 0)
    }

    /// What the engine counts.
    pub fn counters(&self) -> &Counters {
        self.files.tables.counters()
    }

    /// Whether load and last beat of members are known.
    pub fn has_heart(&self) -> bool {
        !self.files.lines().is_empty()
    }

    /// Number of the newest event; 0 before the first.
    #[inline]
    pub fn head(&self) -> u64 {
        self.files.tables.feed().head()
    }

    /// The events after this number.
    pub fn events(&self, after: u64) -> Events<'_> {
        Events::after(self.files.tables.feed(), after)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        Cause, Event, EventKind, Geometry, Mismatch, Place, Region, RegionError, Right, Run,
    };
    use super::*;
    use crate::sync::AtomicBool;
    use crate::wire::time::Moment;
    use crate::wire::{Generation, Slot};
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc::channel;

    const BOOT: [u8; 16] = [7; 16];
    const LONG: Duration = Duration::from_secs(30);

    fn directory(name: &str) -> PathBuf {
        let path = PathBuf::from(format!("/dev/shm/heartline-view-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn create(path: &Path, slots: u32) -> (Region, Right) {
        let place = Place::Directory(path.to_owned());
        let run = Run { boot: BOOT, epoch: 13, key: (11, 12) };
        Region::create(&place, Geometry::new(slots, 16), run, &AtomicBool::new(false)).unwrap()
    }

    fn tell(region: &Region, right: &Right, revision: u64) {
        let event = Event {
            at: Moment::from_nanos(revision),
            kind: EventKind::Down,
            cause: Cause::Silence,
            service: 5,
            revision,
            slot: Slot::new(6),
            generation: Generation::new(7),
            silent: 8,
            live: 9,
        };
        region.feed().push(right, &event);
    }

    fn revisions(view: &View, after: u64) -> Vec<Result<u64, (u64, u64)>> {
        let events = view.events(after);
        events
            .map(|event| match event {
                Ok((number, event)) => {
                    assert_eq!((event.silent, event.live, event.slot.get()), (8, 9, 6));
                    assert_eq!((event.generation.get(), event.kind), (7, EventKind::Down));
                    assert_eq!(event.revision, number);
                    Ok(number)
                }
                Err(Lost { after, next }) => Err((after, next)),
            })
            .collect()
    }

    /// A reader that missed events without being told would go on with a list that is wrong.
    #[test]
    fn events_come_in_order_and_loss_is_said() {
        let path = directory("events");
        let (region, right) = create(&path, 64);
        let view = View::open_in(&path, BOOT).unwrap();
        assert_eq!(revisions(&view, 0), []);
        (1..=3).for_each(|number| tell(&region, &right, number));
        assert_eq!(revisions(&view, 0), [Ok(1), Ok(2), Ok(3)]);
        assert_eq!(revisions(&view, 2), [Ok(3)]);
        assert_eq!(revisions(&view, 3), []);
        let kept = region.feed().capacity();
        (4..=kept + 10).for_each(|number| tell(&region, &right, number));
        let seen = revisions(&view, 3);
        assert_eq!(seen[..2], [Err((3, 11)), Ok(11)]);
        assert_eq!(seen.len() as u64, kept + 1);
        let ahead = kept + 11;
        assert_eq!(revisions(&view, ahead)[0], Err((ahead, 11)), "numbers began anew");
        let mut events = view.events(kept + 8);
        assert_eq!(events.by_ref().count(), 2);
        assert_eq!(events.number(), kept + 10);
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// Waits in a thread, and says when it did and how it ended.
    fn waiting(mut view: View, seen: u64) -> std::sync::mpsc::Receiver<(Waited, View)> {
        let (tell, told) = channel();
        std::thread::spawn(move || tell.send((view.wait(seen, LONG), view)));
        std::thread::sleep(Duration::from_millis(30));
        told
    }

    #[test]
    fn the_waiting_are_woken() {
        let path = directory("wait");
        let (region, right) = create(&path, 64);
        let mut view = View::open_in(&path, BOOT).unwrap();
        assert_eq!(view.wait(0, Duration::from_millis(1)), Waited::Nothing);
        assert_eq!(view.wait(9, LONG), Waited::Events, "another number is news");
        let told = waiting(view.clone(), 0);
        tell(&region, &right, 1);
        region.wake_waiting();
        // Shorter than the look without a wake-up.
        let (waited, _) = told.recv_timeout(LOOK / 2).expect("it was woken");
        assert_eq!(waited, Waited::Events);
        let told = waiting(view.clone(), 1);
        let (next, _next_right) = create(&path, 128);
        region.leave(&right);
        let (waited, view) = told.recv_timeout(LOOK / 2).expect("it was woken");
        assert_eq!((waited, view.files.tables.geometry()), (Waited::Moved, next.geometry()));
        assert!(!view.is_left());
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// An operator removes the memory files, or a program of another version replaces them: nobody
    /// says so in the file that is mapped.
    #[test]
    fn a_file_that_was_replaced_is_noticed() {
        let path = directory("replaced");
        let (_first, right) = create(&path, 64);
        let mut view = View::open_in(&path, BOOT).unwrap();
        assert!(!view.refresh().unwrap());
        std::fs::remove_file(path.join("public")).unwrap();
        assert!(!view.refresh().unwrap(), "with no file there, the old one is the newest");
        let told = waiting(view.clone(), 0);
        let (second, _) = create(&path, 64);
        tell(&second, &right, 1);
        let (waited, moved) = told.recv_timeout(LOOK * 4).expect("it looks");
        assert_eq!((waited, moved.head()), (Waited::Moved, 1));
        assert_eq!(view.head(), 0);
        assert!(view.refresh().unwrap() && view.head() == 1 && !view.refresh().unwrap());
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn what_is_no_engines_file_is_refused() {
        let path = directory("refused");
        let refusal = || match View::open_in(&path, BOOT) {
            Err(RegionError::Refused { mismatch, .. }) => Some(mismatch),
            Err(RegionError::Io { .. }) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal(), None, "no file");
        std::fs::write(path.join("public"), "a letter to somebody").unwrap();
        assert_eq!(refusal(), Some(Mismatch::Foreign));
        std::fs::remove_file(path.join("public")).unwrap();
        let fifo = std::ffi::CString::new(path.join("public").to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o644) }, 0);
        assert_eq!(refusal(), Some(Mismatch::Foreign));
        std::fs::remove_file(path.join("public")).unwrap();
        drop(create(&path, 64));
        assert!(View::open_in(&path, [8; 16]).is_err(), "another boot");
        let file = File::options().read(true).write(true).open(path.join("public")).unwrap();
        let mut refused = 0;
        for bit in 0..512 {
            let (mut byte, at) = ([0], bit / 8);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], at).unwrap();
            match View::open_in(&path, BOOT) {
                Ok(view) => assert_eq!(view.files.tables.geometry(), &Geometry::new(64, 16)),
                Err(RegionError::Refused { .. }) => refused += 1,
                Err(other) => panic!("bit {bit}: {other:?}"),
            }
            file.write_all_at(&byte, at).unwrap();
        }
        assert!(refused > 300, "only {refused} were noticed");
        file.set_len(4096).unwrap();
        assert!(matches!(refusal(), Some(Mismatch::Size { .. })));
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// While indexes are made anew, nothing is found in them: that nobody is there would be a lie.
    #[test]
    fn tables_that_are_made_anew_are_not_believed() {
        let path = directory("rebuild");
        let (region, right) = create(&path, 64);
        let view = View::open_in(&path, BOOT).unwrap();
        assert!(view.service("s").unwrap().is_none());
        region.begin_rebuild(&right);
        assert_eq!(view.service("s").map(|_| ()), Err(Disturbed));
        // An engine that died meanwhile leaves it so, and the next one begins again.
        region.begin_rebuild(&right);
        region.end_rebuild(&right);
        assert!(view.service("s").unwrap().is_none());
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// The heart file is the owner's: others know the members, and not how they beat.
    #[test]
    fn without_the_heart_file_load_is_unknown() {
        let path = directory("heart");
        let (_region, _right) = create(&path, 64);
        assert!(View::open_in(&path, BOOT).unwrap().has_heart());
        std::fs::rename(path.join("heart"), path.join("hidden")).unwrap();
        assert!(!View::open_in(&path, BOOT).unwrap().has_heart());
        std::fs::create_dir(path.join("other")).unwrap();
        drop(create(&path.join("other"), 128));
        std::fs::rename(path.join("other/heart"), path.join("heart")).unwrap();
        assert!(!View::open_in(&path, BOOT).unwrap().has_heart(), "of another engine");
        std::fs::remove_dir_all(&path).unwrap();
    }
}
