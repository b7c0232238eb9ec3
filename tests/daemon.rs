//! The program `heartlined` as an operator meets it: flags, files, environment, signals, exit
//! codes, other processes.

use heartline_client::{Beat, Beats, Query, Session, Stat};
use heartline_test_support::*;
use rustix::process::Signal;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn output(flags: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(program())
        .args(flags)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn refusal(flags: &[&str], environment: &[(&str, &str)]) -> String {
    let output = output(flags, environment);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn ready_within_a_second_serves_and_stops_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let state = Scratch::new();
        let start = Instant::now();
        let mut daemon = Daemon::start(&state, &[]);
        let mut session = Session::connect(daemon.address).unwrap();
        session.register(&instance("s", "a", 60_000)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(daemon.ready.contains("capacity 65536 leases"), "{}", daemon.ready);
        let secrets = std::fs::metadata(state.0.join("heart")).unwrap();
        assert_eq!(
            std::os::unix::fs::MetadataExt::mode(&secrets) & 0o777,
            0o600,
            "the secrets are the owner's"
        );
        let stop = Instant::now();
        daemon.signal(signal);
        assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
        assert!(stop.elapsed() < Duration::from_secs(2));
        assert!(state.0.join("public").exists(), "memory stays for the next engine");
    }
}

#[test]
fn wrong_usage_is_named_and_ends_with_2() {
    assert!(
        refusal(&["--capacity", "5"], &[])
            .contains("capacity: \"5\" is not a whole number from 16 to 16777216")
    );
    assert!(refusal(&["--no-such-flag"], &[]).contains("--no-such-flag"));
    assert!(refusal(&[], &[("HEARTLINE_SPIN", "1h")]).contains("from 0s to 1s"));
    assert!(refusal(&["--capacity", "-1"], &[]).contains("from 16 to 16777216"));
    let ignored = output(&["--check-config"], &[("HEARTLINE_CAPACTY", "99")]);
    assert!(
        String::from_utf8(ignored.stderr).unwrap().contains("HEARTLINE_CAPACTY is not a setting")
    );
    assert_eq!(ignored.status.code(), Some(0));
    assert!(refusal(&["--config", "/no/such/file"], &[]).contains("/no/such/file"));
    let scratch = Scratch::new();
    let file = scratch.0.join("heartline.toml");
    std::fs::write(&file, "capacity = 99\ncapcity = 1\n").unwrap();
    assert!(refusal(&["--config", file.to_str().unwrap()], &[]).contains("capcity"));
}

/// Where a wrong value was given is said as well, and every setting is in the help and in the file.
#[test]
fn a_refusal_names_the_place_of_the_value() {
    let scratch = Scratch::new();
    let file = scratch.0.join("heartline.toml");
    std::fs::write(&file, "\nsnapshot-interval = \"2h\"\n").unwrap();
    let path = file.to_str().unwrap();
    let range = "is not a time from 10ms to 1h, such as 250us, 20ms or 30s";
    let from_flag = refusal(&["--snapshot-interval", "1ms"], &[]);
    assert!(from_flag.contains(&format!("--snapshot-interval: \"1ms\" {range}")), "{from_flag}");
    let from_variable = refusal(&["--config", path], &[("HEARTLINE_SNAPSHOT_INTERVAL", "3h")]);
    assert!(
        from_variable.contains(&format!("HEARTLINE_SNAPSHOT_INTERVAL: \"3h\" {range}")),
        "{from_variable}"
    );
    let from_file = refusal(&["--config", path], &[]);
    assert!(
        from_file.contains(&format!("{path}: snapshot_interval: \"2h\" {range}")),
        "{from_file}"
    );
    let said = |flag| String::from_utf8(output(&[flag], &[]).stdout).unwrap();
    let (help, shown) = (said("--help"), said("--print-config"));
    for setting in &heartline::settings::SETTINGS {
        let flag = format!("--{} <{}>", setting.name.replace('_', "-"), setting.placeholder);
        assert!(help.contains(&flag), "{flag}: {help}");
        assert!(shown.contains(&format!("{} = ", setting.name)), "{shown}");
    }
}

#[test]
fn flags_win_over_environment_over_file() {
    let scratch = Scratch::new();
    let file = scratch.0.join("heartline.toml");
    std::fs::write(&file, "capacity = 100\nquota = 50\ntombstone = \"2m\"\n").unwrap();
    let flags = ["--check-config", "--config", file.to_str().unwrap(), "--capacity", "300"];
    let output = output(&flags, &[("HEARTLINE_CAPACITY", "200"), ("HEARTLINE_QUOTA", "60")]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0));
    for expected in ["capacity = 300\n", "quota = 60\n", "tombstone = \"2m\"\n"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn failures_at_start_end_with_1_and_leave_the_other_engine_alone() {
    let state = Scratch::new();
    let first = Daemon::start(&state, &[]);
    let mut session = Session::connect(first.address).unwrap();
    session.register(&instance("s", "a", 60_000)).unwrap();
    let fails = |mut command: Command| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let mut same_state = command(&state, &[]);
    same_state.args(["--listen", "127.0.0.1:0"]);
    assert!(fails(same_state).contains("belongs to a running engine"));
    let (other, address) = (Scratch::new(), first.address.to_string());
    assert!(fails(command(&other, &["--listen", &address])).contains("in use"));
    let shared = Scratch::new();
    std::fs::set_permissions(&shared.0, std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .unwrap();
    assert!(
        fails(command(&shared, &["--listen", "127.0.0.1:0"])).contains("writable for no one else")
    );
    std::fs::write(other.0.join("public"), "a letter").unwrap();
    assert!(fails(command(&other, &["--listen", "127.0.0.1:0"])).contains("move it away"));
    let disk = std::env::temp_dir().join(format!("heartline-test-{}", std::process::id()));
    let on_disk = rustix::fs::statfs(std::env::temp_dir().as_path()).unwrap().f_type != 0x0102_1994;
    if on_disk {
        let mut command = Command::new(program());
        command.env_clear().args(["--listen", "127.0.0.1:0", "--state", disk.to_str().unwrap()]);
        assert!(fails(command).contains("not on tmpfs"));
        assert!(!disk.exists(), "nothing is left on the disk");
    } else {
        println!("skipped: {} is on tmpfs, so that no disk is at hand", disk.display());
    }
    assert_eq!(
        session.discover(&Query::new("s")).unwrap().endpoints.len(),
        1,
        "the first engine goes on"
    );
}

/// Allocating 1.7 GiB takes seconds; a service manager that changes its mind does not wait for
/// them.
#[test]
fn a_signal_during_a_long_start_is_heard() {
    let state = Scratch::new();
    let address = lasting_address();
    let mut command = command(&state, &["--listen", &address, "--capacity", "4000000"]);
    let mut daemon = Daemon::unready(command.stdout(Stdio::piped()), &address);
    eventually("it allocates", || state.allocated_bytes() > 64 << 20);
    let stop = Instant::now();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
    assert!(stop.elapsed() < Duration::from_secs(2), "{:?}", stop.elapsed());
    assert!(!state.0.join("heart").exists() && !state.0.join("public").exists());
    let said = std::io::read_to_string(daemon.child.stdout.take().unwrap()).unwrap();
    assert_eq!(said, "", "it was not ready yet");
}

#[test]
fn an_engine_that_nobody_listens_to_serves_all_the_same() {
    let state = Scratch::new();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let address = lasting_address();
    let mut command = command(&state, &["--listen", &address]);
    let mut daemon = Daemon::unready(command.stdout(full), &address);
    let mut session = Session::connect(daemon.address).unwrap();
    eventually("a hello is answered", || session.hello().is_ok());
    session.register(&instance("s", "a", 60_000)).unwrap();
    assert_eq!(session.discover(&Query::new("s")).unwrap().endpoints.len(), 1);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
}

/// What was acknowledged outlives the process that acknowledged it: leases, lists, revisions, and
/// what beats said.
#[test]
fn a_killed_engine_is_gone_on_with() {
    let state = Scratch::new();
    let mut first = Daemon::start(&state, &[]);
    let mut session = Session::connect(first.address).unwrap();
    let epoch = session.hello().unwrap().epoch;
    let leases = register_all(&mut session, 300, 2000);
    session.deregister(&leases[7]).unwrap();
    session.beat(&[beat(leases[8], 5)]).unwrap();
    let before = session.discover(&Query::new("s")).unwrap().revision;
    first.signal(Signal::KILL);
    first.child.wait().unwrap();

    let second = Daemon::start(&state, &[]);
    assert!(second.ready.contains("299 leases go on"), "{}", second.ready);
    let mut session = Session::connect(second.address).unwrap();
    assert_ne!(session.hello().unwrap().epoch, epoch);
    let all = session.discover_all("s", 3).unwrap().unwrap();
    assert_eq!((all.endpoints.len(), all.revision), (299, before));
    let Beats::Acked(ack) = session.beat(&[beat(leases[8], 5), beat(leases[9], 1)]).unwrap() else {
        panic!("a lease was lost")
    };
    assert_eq!((ack.accepted, ack.old), (1, 1), "the sequence of the last beat is kept");
    assert!(
        matches!(session.beat(&[beat(leases[7], 1)]).unwrap(), Beats::Refused(_)),
        "what was given back stays given back"
    );
    // Everybody has one TTL to be heard in, and the silent go down after it.
    assert_eq!(stat(&mut session, Stat::Downs), 0);
    eventually("the silent are down", || stat(&mut session, Stat::Down) == 299);
    let fresh = session.register(&instance("s", "new", 2000)).unwrap().lease;
    assert!(
        leases.iter().all(|lease| {
            (lease.slot(), lease.generation()) != (fresh.slot(), fresh.generation())
        })
    );
}

/// Another capacity is another layout: leases move into it, and where they have no room the engine
/// does not start.
#[test]
fn memory_of_another_size_is_moved_or_left_alone() {
    let state = Scratch::new();
    let mut first = Daemon::start(&state, &["--capacity", "1000"]);
    let mut session = Session::connect(first.address).unwrap();
    let leases = register_all(&mut session, 200, 5000);
    session.beat(&[beat(leases[8], 5)]).unwrap();
    first.signal(Signal::KILL);
    first.child.wait().unwrap();
    let before = std::fs::read(state.0.join("heart")).unwrap();
    let refused =
        command(&state, &["--capacity", "100"]).args(["--listen", "127.0.0.1:0"]).output().unwrap();
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        said.contains("a lease in slot 199") && said.contains("no smaller than before"),
        "{said}"
    );
    assert!(before == std::fs::read(state.0.join("heart")).unwrap(), "nothing was changed");

    let second = Daemon::start(&state, &["--capacity", "2000", "--attributes", "256"]);
    assert!(second.ready.contains("200 leases"), "{}", second.ready);
    let mut session = Session::connect(second.address).unwrap();
    let Beats::Acked(ack) = session.beat(&[beat(leases[8], 5), beat(leases[9], 1)]).unwrap() else {
        panic!("a lease was lost")
    };
    assert_eq!((ack.accepted, ack.old), (1, 1), "the sequence of the last beat is kept");
    assert_eq!(session.discover_all("s", 3).unwrap().unwrap().endpoints.len(), 200);
}

/// A stopped observer must not declare its peers dead (restate #5156, corosync #377).
#[test]
fn two_seconds_stopped_under_load_blame_nobody() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let leases = register_all(&mut session, 200, 500);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut beating = Session::connect(daemon.address).unwrap();
            let mut sequence = 1;
            while !stop.load(Relaxed) {
                for chunk in leases.chunks(20) {
                    let beats: Vec<Beat> =
                        chunk.iter().map(|lease| beat(*lease, sequence)).collect();
                    beating.send_beats(&beats).unwrap();
                }
                sequence += 1;
                std::thread::sleep(Duration::from_millis(125));
            }
        });
        let mut accepted = || stat(&mut session, Stat::BeatsAccepted);
        eventually("all beat", || accepted() >= 2 * leases.len() as u64);
        daemon.signal(Signal::STOP);
        std::thread::sleep(Duration::from_secs(2));
        daemon.signal(Signal::CONT);
        // Longer than the three TTLs that grace may last: a verdict that was put off comes by then.
        std::thread::sleep(Duration::from_secs(2));
        let stats = session.stats().unwrap();
        stop.store(true, Relaxed);
        assert_eq!((stats.get(Stat::Downs), stats.get(Stat::Up)), (0, 200));
    });
}

/// A short stop while the engine sleeps, shortly before a deadline, gives eight times its length:
/// the case that a timer alone does not see.
#[test]
fn a_short_stop_before_a_deadline_gives_grace() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut session = Session::connect(daemon.address).unwrap();
    let before = Instant::now();
    session.register(&instance("s", "a", 2000)).unwrap();
    let registered = Instant::now();
    std::thread::sleep(Duration::from_millis(1800).saturating_sub(before.elapsed()));
    daemon.signal(Signal::STOP);
    let stopped = Instant::now();
    std::thread::sleep(Duration::from_millis(100));
    let length = stopped.elapsed();
    daemon.signal(Signal::CONT);
    let back = registered.elapsed();
    eventually("it is down", || stat(&mut session, Stat::Downs) == 1);
    let (down, grace) = (before.elapsed(), 8 * length);
    println!("stopped for {length:?} until {back:?}, down after {down:?}");
    assert!(down >= back + grace - Duration::from_millis(20), "{down:?}, {back:?} and {grace:?}");
}

/// An engine without leases sleeps: no tick, no poll, at most 0.1 % of a core.
#[test]
fn idle_costs_nothing() {
    let state = Scratch::new();
    let daemon = Daemon::start(&state, &[]);
    let mut before = cpu_ns(&daemon);
    eventually("the start is over", || {
        std::thread::sleep(Duration::from_millis(50));
        let used = std::mem::replace(&mut before, cpu_ns(&daemon));
        used == before
    });
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_ns(&daemon) - before;
    println!("idle for 2 s: {used} ns of CPU");
    assert!(used <= 2_000_000, "{used} ns in 2 s");
}

/// CPU time of all threads (Documentation/scheduler/sched-stats.rst).
fn cpu_ns(daemon: &Daemon) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
    tasks
        .map(|task| std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap())
        .map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}
