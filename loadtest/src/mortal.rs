//! A process that is there to be killed: it shows its lease to the engine of its machine.

use crate::bed::spawn;
use heartline_client::{Local, Registration, Session};
use heartline_wire::{Generation, Slot};
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

/// It is never silent for so long.
const TTL: Duration = Duration::from_secs(3600);

/// The engine that it registers at.
#[derive(clap::Args)]
pub(crate) struct MortalOptions {
    #[arg(long)]
    target: SocketAddr,
    /// Its state directory
    #[arg(long)]
    state: PathBuf,
}

/// What `heartline-loadtest mortal` is: one instance that depends on its process. It prints slot
/// and generation in one number, and lives until its standard input ends or it is killed.
pub(crate) fn serve(options: &MortalOptions) -> Result<(), String> {
    let run = || {
        let mut session = Session::connect(options.target)?;
        let name = format!("mortal-{}", std::process::id());
        let registration = Registration { ttl: TTL, ..Registration::new("mortals", &name, 80) };
        let lease = session.register(&registration)?.lease;
        let mut local = Local::connect(&options.state)?;
        local.show(&lease)?;
        println!("{}", u64::from(lease.generation()) << 32 | u64::from(lease.slot()));
        let _ = std::io::stdin().read(&mut [0]);
        local.let_go()
    };
    run().map_err(|error| error.to_string())
}

/// Such a process. It ends with this value.
pub(crate) struct Mortal {
    child: Child,
    /// The lease that depends on it.
    pub(crate) lease: (Slot, Generation),
}

impl Mortal {
    /// Starts one on a CPU; it has shown its lease.
    pub(crate) fn start(cpu: usize, target: SocketAddr, state: &Path) -> Result<Self, String> {
        let (target, state) = (target.to_string(), state.display().to_string());
        let arguments = ["mortal", "--target", &target, "--state", &state];
        let (child, number) = spawn::<u64>(cpu, &arguments)?;
        let lease = (Slot::new(number as u32), Generation::new((number >> 32) as u32));
        Ok(Self { child, lease })
    }

    /// Sends it SIGKILL.
    pub(crate) fn kill(&mut self) -> Result<(), String> {
        self.child.kill().map_err(|error| error.to_string())
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
