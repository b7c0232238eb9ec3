//! A caller that balances over the instances of a service and prints where its calls went.
//!
//! Start an engine and some services first (`examples/service.rs`), then
//! `cargo run --release --example caller -- web`. Each line is one second.

use heartline_client::Agent;
use std::collections::BTreeMap;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long a call may take.
const PATIENCE: Duration = Duration::from_millis(200);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let service = std::env::args().nth(1).unwrap_or_else(|| "web".into());
    let agent = Agent::from_env()?;
    let instances = agent.watch(&service)?; // a local view, kept current by pushes
    instances.wait_ready(Duration::from_secs(5))?;
    for second in 1.. {
        let end = Instant::now() + Duration::from_secs(1);
        let (mut answered, mut failed) = (BTreeMap::<SocketAddr, u32>::new(), 0);
        while Instant::now() < end {
            match instances.call() {
                Ok(call) => match ask(call.address()) {
                    Ok(()) => {
                        *answered.entry(call.address()).or_default() += 1;
                        call.succeeded();
                    }
                    Err(_) => {
                        failed += 1;
                        call.failed();
                    }
                },
                Err(error) => println!("{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        println!("second {second}: {answered:?}, {failed} failed");
    }
    Ok(())
}

fn ask(address: SocketAddr) -> std::io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&address, PATIENCE)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.read_to_string(&mut String::new()).map(drop)
}
