//! Engine, services and callers in one process: what a test of your own system needs.
//!
//! `cargo run --release --example embedded`

use heartline::{Config, Engine, Place};
use heartline_client::{Agent, Instance};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config {
        listen: vec!["127.0.0.1:0".parse()?],
        state: Place::Scratch,
        capacity: 1024,
        ..Config::default()
    };
    let engine = Engine::start(&config)?;
    let agent = Agent::connect(&engine.addresses()[0].to_string())?;
    println!("engine on {}", engine.addresses()[0]);

    let ttl = Duration::from_millis(200);
    let mut instances = Vec::new();
    for port in 8001..=8003 {
        instances.push(agent.register(Instance::new("users", port).ttl(ttl))?);
    }
    let users = agent.watch("users")?;
    users.wait_ready(Duration::from_secs(5))?;
    for instance in &instances {
        instance.wait_up(Duration::from_secs(5))?;
    }
    println!("users: {} instances; one pick: {}", users.all().len(), users.pick()?.address());

    let start = Instant::now();
    drop(instances.pop());
    while users.all().len() == 3 {
        std::thread::yield_now();
    }
    println!("one left, and its caller knew after {:?}", start.elapsed());
    drop(instances);
    engine.join();
    Ok(())
}
