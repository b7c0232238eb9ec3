//! Finds all instances of a service, then one of them to call.
//!
//! Start an engine first (`cargo run --release`) and an instance (`cargo run --release --example
//! beat`), then `cargo run --release --example find`.

use heartline_client::{ClientError, Query, Session, Strategy};

fn main() -> Result<(), ClientError> {
    let mut session = Session::connect(([127, 0, 0, 1], 19528).into())?;
    let page = session.discover(&Query::new("payments"))?;
    println!("{:?}: {} endpoints", page.status, page.endpoints.len());
    for endpoint in &page.endpoints {
        println!("{} is {:?}, heard {:?} ago", endpoint.address, endpoint.state, endpoint.age);
    }
    let query = Query { strategy: Strategy::TwoChoices, ..Query::new("payments") };
    if let [endpoint, ..] = session.discover(&query)?.endpoints[..] {
        println!("call {}", endpoint.address);
    }
    Ok(())
}
