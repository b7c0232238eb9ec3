//! A service of three lines: it answers each TCP connection with its name, and is registered,
//! beating and found while it runs.
//!
//! Start an engine first (`cargo run --release`), then
//! `cargo run --release --example service -- web 8081`. `HEARTLINE_ENGINE` names other engines than
//! the one on this machine.

use heartline_client::{Agent, Instance};
use std::io::Write;
use std::net::TcpListener;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let service = arguments.next().unwrap_or_else(|| "web".into());
    let listener =
        TcpListener::bind(("127.0.0.1", arguments.next().unwrap_or("0".into()).parse()?))?;
    let port = listener.local_addr()?.port();

    let agent = Agent::from_env()?;
    let instance = Instance::new(&service, port).ttl(Duration::from_secs(1));
    let registered = agent.register(instance)?; // beats from here on; dropped = deregistered
    registered.wait_up(Duration::from_secs(5))?;
    println!("{service} serves on port {port}");

    for connection in listener.incoming() {
        writeln!(connection?, "{service} on port {port}")?;
    }
    Ok(())
}
