//! What a service manager and an operator ask of a daemon that runs.

use crate::{is_root, next_edition};
use heartline::internals::net::Inherited;
use heartline::{Config, Engine};
use heartline_client::{ClientError, Lease, Session, Stat, Status};
use heartline_test_support::*;
use rustix::process::Signal;
use rustix::thread::{Uid, set_thread_res_uid};
use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Ready, alive, reloading, stopping: as sd_notify(3) has it.
#[test]
fn the_service_manager_is_told() {
    let (state, scratch) = (Scratch::new(), Scratch::new());
    let manager = UnixDatagram::bind(scratch.0.join("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let said = || {
        let mut buffer = [0; 512];
        let length = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let mut command = command(&state, &["--listen", "127.0.0.1:0"]);
    command
        .env("NOTIFY_SOCKET", scratch.0.join("notify"))
        .env("WATCHDOG_USEC", "300000")
        .stderr(Stdio::null());
    let mut daemon = Daemon::spawn(&mut command);
    assert!(said().contains("READY=1"));
    assert!(said().contains("FDSTOREREMOVE=1"), "what another number of loops left there");
    assert!(said().contains("FDSTORE=1"));
    for _ in 0..5 {
        assert!(said().contains("WATCHDOG=1"), "an idle engine is alive");
    }
    daemon.signal(Signal::HUP);
    let reloading = std::iter::repeat_with(said).find(|said| said.contains("RELOADING=1")).unwrap();
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(std::iter::repeat_with(said).any(|said| said.contains("READY=1")));
    daemon.signal(Signal::TERM);
    assert!(std::iter::repeat_with(said).any(|said| said.contains("STOPPING=1")));
    assert_eq!(daemon.child.wait().unwrap().code(), Some(0));
}

/// What arrived before the daemon was there is answered by it, and what comes to its other loops.
#[test]
fn sockets_of_the_service_manager_are_served() {
    if Command::new("systemd-socket-activate")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("skipped: systemd-socket-activate is not installed");
        return;
    }
    let state = Scratch::new();
    let listen = lasting_address();
    let mut activate = Command::new("systemd-socket-activate");
    activate.args([
        "--datagram",
        "-l",
        &listen,
        "-E",
        "HEARTLINE_SNAPSHOT=off",
        program(),
        "--listen",
        &listen,
        "--state",
    ]);
    let mut child =
        activate.arg(&state.0).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut session = Session::connect(listen.parse().unwrap()).unwrap();
    session.set_patience(Duration::from_secs(5));
    eventually("the socket is there, and whoever it starts answers", || session.hello().is_ok());
    assert_eq!(stat(&mut session, Stat::KernelDrops), 0);
    for _ in 0..20 {
        Session::connect(listen.parse().unwrap()).unwrap().hello().unwrap();
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The service manager's sockets are another user's than a daemon's with a user of its own: then no
/// others can share their port.
#[test]
fn there_are_as_many_loops_as_sockets_of_another_user() {
    if !is_root("sockets of another user") {
        return;
    }
    let bind = || {
        // Of this thread only.
        let nobody = Uid::from_raw(65_534);
        set_thread_res_uid(nobody, nobody, nobody).map(|()| UdpSocket::bind("127.0.0.1:0").unwrap())
    };
    let Ok(socket) = std::thread::spawn(bind).join().unwrap() else {
        println!("skipped: this root can't become another user");
        return;
    };
    let config = Config { listen: vec![socket.local_addr().unwrap()], ..config() };
    let cores = config.loop_cores().len();
    let inherited = vec![Inherited::new(socket.into(), false)];
    let engine = Engine::builder(&config).inherited(inherited).start().unwrap();
    assert_eq!(engine.cores().len(), 1);
    let said = engine
        .notices()
        .iter()
        .any(|notice| notice.contains(&format!("1 loops instead of {cores}")));
    assert!(said || cores == 1, "{:?}", engine.notices());
    Session::connect(config.listen[0]).unwrap().hello().unwrap();
}

/// SIGHUP takes over what can change, and refuses everything together when something else differs.
#[test]
fn what_can_change_is_read_again() {
    let state = Scratch::new();
    let (config, errors) = (state.0.join("config.toml"), state.0.join("errors"));
    let write = |text: &str| std::fs::write(&config, text).unwrap();
    write("deny = [\"old*\"]\n");
    let mut command =
        command(&state, &["--listen", "127.0.0.1:0", "--config", config.to_str().unwrap()]);
    let daemon = Daemon::spawn(command.stderr(File::create(&errors).unwrap()));
    let said = |what: &str| std::fs::read_to_string(&errors).unwrap().contains(what);
    let mut session = Session::connect(daemon.address).unwrap();
    let kept = session.register(&instance("new-one", "a", 60_000)).unwrap().lease;
    let denied = |session: &mut Session, service: &str| {
        matches!(
            session.register(&instance(service, "x", 60_000)),
            Err(ClientError::Refused { status: Status::Denied, .. })
        )
    };
    assert!(denied(&mut session, "old-one"));
    write("deny = [\"new*\"]\nquota = 3\n");
    daemon.signal(Signal::HUP);
    eventually("it is said", || said("are as configured now"));
    assert!(denied(&mut session, "new-two") && !denied(&mut session, "old-one"));
    assert_eq!(crate::honoured(&mut session, &[kept], 1), 1, "leases that stand are not touched");
    session.register(&instance("third", "x", 60_000)).unwrap();
    let full = session.register(&instance("fourth", "x", 60_000));
    assert!(matches!(full, Err(ClientError::Refused { status: Status::Quota, .. })), "{full:?}");
    write("deny = [\"third*\"]\ncapacity = 1000\nhold = \"off\"\n");
    daemon.signal(Signal::HUP);
    eventually("the reason is said", || said("capacity, hold can't change while the engine runs"));
    write("deny = 7\n");
    daemon.signal(Signal::HUP);
    eventually("the mistake is said", || said("deny"));
    assert!(denied(&mut session, "new-two"), "nothing was changed");
}

/// Minor and major page faults of the loops, from `/proc/PID/task/TID/stat` (proc_pid_stat(5),
/// fields 10 and 12).
fn loop_faults(daemon: &Daemon) -> Vec<(u64, u64)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
    let mut faults = Vec::new();
    for task in tasks {
        let path = task.unwrap().path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap();
        if name.trim().strip_prefix("heartline-").is_some_and(|core| core.parse::<u32>().is_ok()) {
            let stat = std::fs::read_to_string(path.join("stat")).unwrap();
            let fields: Vec<u64> = stat
                .rsplit(") ")
                .next()
                .unwrap()
                .split(' ')
                .map(|field| field.parse().unwrap_or(0))
                .collect();
            faults.push((fields[7], fields[9]));
        }
    }
    faults
}

/// Loops touch no page that a disk backs, and none that is not there: no page fault while snapshots
/// are written under them.
#[test]
fn loops_take_no_page_fault_under_snapshots() {
    let (state, disk) = (
        Scratch::new(),
        std::env::temp_dir().join(format!("heartline-faults-{}", std::process::id())),
    );
    std::fs::create_dir_all(&disk).unwrap();
    let snapshot = disk.join("snapshot");
    let flags = ["--snapshot", snapshot.to_str().unwrap(), "--snapshot-interval", "20ms"];
    let mut daemon = Daemon::start(&state, &flags);
    for what in ["made", "gone on with"] {
        let mut session = Session::connect(daemon.address).unwrap();
        let leases: Vec<Lease> = (0..5000)
            .map(|n| {
                session
                    .register(&instance(&format!("s{}", n % 50), &format!("i{n}"), 60_000))
                    .unwrap()
                    .lease
            })
            .collect();
        let round = |session: &mut Session, number: u32| {
            crate::honoured(session, &leases, number);
            session.register(&instance("s0", &format!("more{number}"), 60_000)).unwrap();
            session.discover_all("s1", 3).unwrap();
        };
        // Stacks, and buffers that the kernel fills, are touched once.
        (1..4).for_each(|number| round(&mut session, number));
        next_edition(&mut session);
        // The kernel may unmap pages for reasons of its own now and then; snapshots would do it
        // every time.
        let quiet = (1..4).any(|window| {
            let (before, from) = (loop_faults(&daemon), stat(&mut session, Stat::Snapshot));
            (4..94).for_each(|number| round(&mut session, window * 100 + number));
            next_edition(&mut session);
            let (after, to) = (loop_faults(&daemon), stat(&mut session, Stat::Snapshot));
            let count = to - from;
            println!("memory {what}: faults {before:?} before, {after:?} after {count} snapshots");
            assert!(!before.is_empty() && to > from);
            before == after
        });
        assert!(quiet, "memory {what}");
        crate::kill(&mut daemon);
        daemon = Daemon::start(&state, &flags);
    }
    drop(daemon);
    std::fs::remove_dir_all(&disk).unwrap();
}
