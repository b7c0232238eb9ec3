//! Disks that fail, are full, slow, or lose their power.

use crate::{honoured, is_root, kill, next_edition, times};
use heartline_client::{Lease, Query, Session, Stat};
use heartline_test_support::*;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

fn has(program: &str) -> bool {
    let found = Command::new(program)
        .arg("-V")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

/// A file system in a directory of its own, unmounted with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let done = run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs", at.to_str().unwrap()],
        );
        assert!(done.status.success(), "{}", text(done.stderr));
        Self(at)
    }

    fn image(image: &Path, at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        let done = run("mount", &["-o", "loop", image.to_str().unwrap(), at.to_str().unwrap()]);
        assert!(done.status.success(), "{}", text(done.stderr));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", self.0.to_str().unwrap()]);
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Too little room is found out at the start, and said with the size that is needed; nothing is
/// left behind.
#[test]
fn too_small_a_file_system_is_refused_with_the_size() {
    if !is_root("file systems of a chosen size") {
        return;
    }
    let (state, scratch) = (Scratch::new(), Scratch::new());
    let small = Mounted::tmpfs(scratch.0.join("small"), "8m");
    let refused = |state: &str, snapshot: &str| {
        let output =
            run(program(), &["--listen", "127.0.0.1:0", "--state", state, "--snapshot", snapshot]);
        assert_eq!(output.status.code(), Some(1));
        text(output.stderr)
    };
    let inside = small.0.join("snapshot");
    let said = refused(state.0.to_str().unwrap(), inside.to_str().unwrap());
    assert!(
        said.contains("56971264 bytes do not fit") && said.contains("choose another --snapshot"),
        "{said}"
    );
    assert_eq!(std::fs::read_dir(&small.0).unwrap().count(), 0, "nothing is left on the disk");
    assert!(!state.0.join("heart").exists());
    let said = refused(small.0.to_str().unwrap(), "off");
    assert!(said.contains("bytes do not fit") && said.contains("enlarge the tmpfs"), "{said}");
    assert!(!small.0.join("heart").exists() && !small.0.join("public").exists());
}

/// Foreign, newer, short and damaged snapshots are refused and left as they are; an engine with
/// live memory replaces a damaged one.
#[test]
fn files_that_are_no_snapshot_are_left_alone() {
    let (state, disk) = (Scratch::new(), Scratch::new());
    let path = disk.0.join("snapshot");
    let flags = ["--snapshot", path.to_str().unwrap(), "--snapshot-interval", "20ms"];
    let mut daemon = Daemon::start(&state, &flags);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 50, 60_000);
    next_edition(&mut session);
    kill(&mut daemon);
    let good = std::fs::read(&path).unwrap();
    let empty = Scratch::new();
    let mut newer = good.clone();
    newer[8] = 2;
    let mut damaged = good.clone();
    damaged[4096..3 * 4096].fill(9);
    for (bytes, says) in [
        (b"a letter to somebody".to_vec(), "is no snapshot of heartline; move it away"),
        (Vec::new(), "is empty, so it is no snapshot of heartline; move it away"),
        (newer, "has format 2, this program knows format 1"),
        (good[..good.len() / 2].to_vec(), "it was cut short"),
        (damaged.clone(), "is damaged (the headers of both halves)"),
    ] {
        std::fs::write(&path, &bytes).unwrap();
        let refused = command(&empty, &flags).args(["--listen", "127.0.0.1:0"]).output().unwrap();
        let said = text(refused.stderr);
        assert!(refused.status.code() == Some(1) && said.contains(says), "{said}");
        assert!(std::fs::read(&path).unwrap() == bytes, "{says}: the file was changed");
    }
    // Memory is newer than any snapshot.
    for (round, bytes) in [Vec::new(), good[..5000].to_vec(), damaged].into_iter().enumerate() {
        std::fs::write(&path, &bytes).unwrap();
        daemon = Daemon::spawn(
            command(&state, &flags).args(["--listen", "127.0.0.1:0"]).stderr(Stdio::null()),
        );
        let mut session = Session::connect(daemon.address).unwrap();
        assert_eq!(honoured(&mut session, &leases, round as u32 + 1), 50);
        kill(&mut daemon);
    }
    std::fs::remove_dir_all(&state.0).unwrap();
    std::fs::create_dir(&state.0).unwrap();
    let daemon = Daemon::start(&state, &flags);
    assert_eq!(
        honoured(&mut Session::connect(daemon.address).unwrap(), &leases, 9),
        50,
        "and was written anew"
    );
}

/// A file that goes away while the engine writes it would be missed at the next reboot.
#[test]
fn a_snapshot_that_is_removed_or_cut_short_is_missed() {
    for cut in [false, true] {
        let (state, disk) = (Scratch::new(), Scratch::new());
        let (path, errors) = (disk.0.join("snapshot"), disk.0.join("errors"));
        let flags = [
            "--snapshot",
            path.to_str().unwrap(),
            "--snapshot-interval",
            "10ms",
            "--capacity",
            "1000",
        ];
        let daemon = Daemon::spawn(
            command(&state, &flags)
                .args(["--listen", "127.0.0.1:0"])
                .stderr(File::create(&errors).unwrap()),
        );
        let mut session = Session::connect(daemon.address).unwrap();
        if cut {
            File::options().write(true).open(&path).unwrap().set_len(5000).unwrap();
        } else {
            std::fs::remove_file(&path).unwrap();
        }
        eventually("it is said", || {
            std::fs::read_to_string(&errors).unwrap().contains("was removed or cut short")
        });
        assert!(stat(&mut session, Stat::SnapshotFailures) > 0);
        session.register(&instance("s", "a", 60_000)).unwrap();
    }
}

/// The daemon under strace, which makes system calls fail or last.
fn injected(state: &Scratch, flags: &[&str], calls: &str, inject: &str, errors: &Path) -> Daemon {
    let mut traced = Command::new("strace");
    // -D: the tracer is in the background, so that the child is the daemon.
    traced.args([
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &format!("trace={calls}"),
        "-e",
        &format!("inject={inject}"),
        program(),
    ]);
    traced.args(flags).arg("--state").arg(&state.0).args(["--listen", "127.0.0.1:0"]);
    Daemon::spawn(traced.stderr(File::create(errors).unwrap()))
}

/// A sync or a write that fails is reported, the edition before stays, and the next attempt
/// writes all.
#[test]
fn a_failing_disk_is_reported_and_costs_nothing() {
    if !has("strace") {
        return;
    }
    for (calls, inject) in [
        ("fdatasync", "fdatasync:error=EIO:when=3"),
        ("fdatasync", "fdatasync:error=EIO:when=4"),
        ("fdatasync", "fdatasync:error=EIO:when=5..9"),
        ("pwrite64", "pwrite64:error=ENOSPC:when=6"),
        ("pwrite64", "pwrite64:error=ENOSPC:when=8..20"),
    ] {
        let (state, disk) = (Scratch::new(), Scratch::new());
        let (path, errors) = (disk.0.join("snapshot"), disk.0.join("errors"));
        let flags = [
            "--snapshot",
            path.to_str().unwrap(),
            "--snapshot-interval",
            "10ms",
            "--capacity",
            "1000",
        ];
        let mut daemon = injected(&state, &flags, calls, inject, &errors);
        let mut session = Session::connect(daemon.address).unwrap();
        let mut leases = Vec::new();
        let start = Instant::now();
        while stat(&mut session, Stat::SnapshotFailures) == 0 {
            leases.push(
                session
                    .register(&instance("s", &format!("i{}", leases.len()), 60_000))
                    .unwrap()
                    .lease,
            );
            assert!(start.elapsed() < Duration::from_secs(20), "{inject}: no failure was seen");
            std::thread::sleep(Duration::from_millis(5));
        }
        leases.push(session.register(&instance("s", "after", 60_000)).unwrap().lease);
        let reported = next_edition(&mut session);
        let said = || std::fs::read_to_string(&errors).unwrap();
        eventually("it is said that snapshots are written again", || {
            said().contains("snapshots are written again")
        });
        assert!(
            said().contains("a snapshot could not be written: ")
                && said().contains("stays, and the next attempt writes all"),
            "{}",
            said()
        );
        assert_eq!(honoured(&mut session, &leases, 1), leases.len(), "{inject}");
        kill(&mut daemon);
        std::fs::remove_dir_all(&state.0).unwrap();
        std::fs::create_dir(&state.0).unwrap();
        let daemon = Daemon::spawn(
            command(&state, &flags)
                .args(["--listen", "127.0.0.1:0"])
                .stderr(File::create(&errors).unwrap()),
        );
        let mut session = Session::connect(daemon.address).unwrap();
        assert_eq!(
            honoured(&mut session, &leases, 2),
            leases.len(),
            "{inject}: cold start from edition {reported} or later"
        );
    }
}

/// How long answers took, sorted.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn p99(&self) -> Duration {
        self.0[self.0.len() * 99 / 100]
    }

    fn longest(&self) -> Duration {
        self.0[self.0.len() - 1]
    }
}

/// Asks for answered beats and for discovery, in turns, for a second and a half; all leases beat
/// every quarter of a second.
fn latencies(session: &mut Session, leases: &[Lease]) -> [Latencies; 2] {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..6 {
        // Sequences are milliseconds: the one before is over.
        std::thread::sleep(Duration::from_millis(2));
        let now =
            (heartline::internals::clock::now() / heartline::internals::clock::NANOS_PER_MS) as u32;
        assert_eq!(honoured(session, leases, now), leases.len());
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(250) {
            for (at, times) in times.iter_mut().enumerate() {
                let asked = Instant::now();
                match at {
                    // An old one is answered as well.
                    0 => drop(session.beat(&[beat(leases[0], 0)]).unwrap()),
                    _ => drop(session.discover(&Query::new("s")).unwrap()),
                }
                times.push(asked.elapsed());
            }
        }
    }
    times.map(|mut times| {
        times.sort();
        Latencies(times)
    })
}

/// Waits until the tracer has stopped the snapshot thread for a tenth of a second on end, so that
/// it is delayed and not just seen in passing. In `/proc/PID/task/TID/stat` the state follows the
/// name, which is in parentheses; `t` is a tracing stop (proc_pid_stat(5)).
fn wait_for_a_delayed_sync(daemon: &Daemon) {
    let is_stopped = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
        let mut stats = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
        stats.any(|stat| stat.contains("(heartline-snap) t"))
    };
    let mut since = Instant::now();
    eventually("a sync is delayed", || {
        if !is_stopped() {
            since = Instant::now();
        }
        since.elapsed() > Duration::from_millis(100)
    });
}

/// A disk that takes five seconds for a sync delays snapshots, and nothing else.
#[test]
fn a_sync_of_five_seconds_delays_nobody() {
    if !has("strace") {
        return;
    }
    let (state, disk) = (Scratch::new(), Scratch::new());
    let (path, errors) = (disk.0.join("snapshot"), disk.0.join("errors"));
    let flags =
        ["--snapshot", path.to_str().unwrap(), "--snapshot-interval", "10ms", "--capacity", "1000"];
    let daemon =
        injected(&state, &flags, "fdatasync", "fdatasync:delay_enter=5000000:when=3", &errors);
    let mut session = Session::connect(daemon.address).unwrap();
    let mut leases = register_all(&mut session, 100, 10_000);
    wait_for_a_delayed_sync(&daemon);
    let stuck = stat(&mut session, Stat::Snapshot);
    leases.push(session.register(&instance("s", "more", 10_000)).unwrap().lease);
    let during = latencies(&mut session, &leases);
    assert_eq!(stat(&mut session, Stat::Snapshot), stuck, "it still waits for the disk");
    eventually("the next snapshot", || {
        honoured(&mut session, &leases, (heartline::internals::clock::now() / 1_000_000) as u32);
        stat(&mut session, Stat::Snapshot) > stuck
    });
    let after = latencies(&mut session, &leases);
    for ((what, during), after) in ["answered beats", "discovery"].iter().zip(&during).zip(&after) {
        println!(
            "{what} p99 during a sync of 5 s {:?}, without {:?}; longest {:?} and {:?}",
            during.p99(),
            after.p99(),
            during.longest(),
            after.longest()
        );
        // A fifth of the sync: nothing waited for it, and a loaded machine is no failure.
        assert!(during.longest() < Duration::from_secs(1), "{what}: {:?}", during.longest());
    }
    assert_eq!(stat(&mut session, Stat::Downs), 0);
}

/// `EXT4_IOC_SHUTDOWN` of `fs/ext4/ext4.h`, and its flag for "do not flush the log".
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587D_u32 as libc::Ioctl;
static NOLOGFLUSH: u32 = 2;

/// The power fails under a real file system: what was reported is there afterwards.
#[test]
fn a_power_loss_on_ext4_costs_nothing_that_was_reported() {
    if !is_root("a loop device that is cut off") || !has("mkfs.ext4") {
        return;
    }
    let (disk, mut random) = (Scratch::new(), SmallRng::seed_from_u64(3));
    let image = disk.0.join("image");
    File::create(&image).unwrap().set_len(64 << 20).unwrap();
    assert!(run("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()]).status.success());
    let (losses, mut known, mut sequence) = (times("HEARTLINE_POWER_LOSSES", 3), Vec::new(), 1);
    for round in 0..=losses {
        // A fresh machine: tmpfs is empty.
        let state = Scratch::new();
        let mounted = Mounted::image(&image, disk.0.join("mounted"));
        let path = mounted.0.join("snapshot");
        let flags = [
            "--snapshot",
            path.to_str().unwrap(),
            "--snapshot-interval",
            "10ms",
            "--capacity",
            "16384",
        ];
        let mut daemon = Daemon::spawn(
            command(&state, &flags).args(["--listen", "127.0.0.1:0"]).stderr(Stdio::null()),
        );
        let mut session = Session::connect(daemon.address).unwrap();
        sequence += 1;
        assert_eq!(honoured(&mut session, &known, sequence), known.len(), "after {round} losses");
        if round == losses {
            break;
        }
        for number in 0..20 {
            known.push(
                session
                    .register(&instance("s", &format!("i{round}-{number}"), 600_000))
                    .unwrap()
                    .lease,
            );
        }
        next_edition(&mut session);
        // From here on nothing is known to be on the disk.
        let moment = Instant::now() + Duration::from_micros(random.random_range(0..40_000));
        for number in 0.. {
            if Instant::now() > moment {
                break;
            }
            session.register(&instance("u", &format!("u{round}-{number}"), 600_000)).unwrap();
            std::thread::sleep(Duration::from_micros(100));
        }
        let root = File::open(&mounted.0).unwrap();
        // SAFETY: the kernel reads four bytes, the flag.
        let cut =
            unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const NOLOGFLUSH) };
        if cut != 0 {
            println!(
                "skipped: this kernel does not cut ext4 off: {}",
                std::io::Error::last_os_error()
            );
            return;
        }
        drop(root);
        eventually("the failure is counted", || {
            let _ = session.register(&instance("u", &format!("late{round}"), 600_000));
            stat(&mut session, Stat::SnapshotFailures) > 0
        });
        kill(&mut daemon);
        drop(mounted);
    }
    println!("{losses} power losses, {} leases", known.len());
}
