//! `heartlined` as a process of its own, on a directory that goes with the test.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The program, which cargo builds before the tests of its package. Their files lie in a folder
/// beside it.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let test = std::env::current_exe().expect("the path of this test");
        let folder = test.ancestors().nth(2).expect("the folder of the build");
        folder.join("heartlined").into_os_string().into_string().expect("a path of UTF-8")
    });
    &PROGRAM
}

/// A directory on tmpfs that goes with the test.
#[derive(Debug)]
pub struct Scratch(pub PathBuf);

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

impl Scratch {
    /// An empty one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = PathBuf::from(format!(
            "/dev/shm/heartline-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        ));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Memory that the files in the directory take. Files that vanish meanwhile take none.
    pub fn allocated_bytes(&self) -> u64 {
        let files = std::fs::read_dir(&self.0).unwrap().map(Result::unwrap);
        files.filter_map(|file| file.metadata().ok()).map(|file| file.blocks() * 512).sum()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An address to start on again and again: below the ports that the kernel chooses from
/// (`ip_local_port_range`), so that no other socket gets it while nobody listens there.
pub fn lasting_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let ports = (0..20_000)
        .map(|_| 10_000 + (std::process::id() * 16 + NEXT.fetch_add(1, Relaxed)) % 20_000);
    let is_free = |address: &String| UdpSocket::bind(address).is_ok();
    ports
        .map(|port| format!("127.0.0.1:{port}"))
        .find(is_free)
        .expect("there is a free port on loopback")
}

/// A running heartlined, killed with the test.
#[derive(Debug)]
pub struct Daemon {
    /// The process.
    pub child: Child,
    /// The address that it listens on.
    pub address: SocketAddr,
    /// Its ready line.
    pub ready: String,
}

impl Daemon {
    /// Starts it on a port that the kernel chooses.
    pub fn start(state: &Scratch, flags: &[&str]) -> Self {
        Self::start_on(state, flags, "127.0.0.1:0")
    }

    /// Starts it on an address.
    pub fn start_on(state: &Scratch, flags: &[&str], address: &str) -> Self {
        Self::spawn(command(state, flags).args(["--listen", address]))
    }

    /// Starts it and waits for its ready line.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let address = ready
            .split("udp://")
            .nth(1)
            .and_then(|rest| rest.split([',', ' ']).next())
            .expect("the ready line has the address");
        Self { address: address.parse().unwrap(), child, ready }
    }

    /// Starts it and waits for nothing.
    pub fn unready(command: &mut Command, address: &str) -> Self {
        let address = address.parse().unwrap();
        Self { child: command.spawn().unwrap(), address, ready: String::new() }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that starts it on a state directory, without a snapshot and with nothing of the
/// environment of the test.
pub fn command(state: &Scratch, flags: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(flags).arg("--state").arg(&state.0).env_clear().env("HEARTLINE_SNAPSHOT", "off");
    command
}
