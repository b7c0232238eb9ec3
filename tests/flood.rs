//! A flood from another core that overflows the receive buffer loses beats of the living: the drops
//! are seen, and nobody is blamed for them.
//!
//! The only test of its program, so that no other test takes the cores that it measures with.

use heartline::Config;
use heartline_client::Stat;
use heartline_test_support::*;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

#[test]
fn an_overflowing_receive_buffer_blames_nobody() {
    let cores = Config::default().loop_cores();
    let (Some(&first), Some(&last)) = (cores.first(), cores.last()) else { panic!("no CPU") };
    if first == last {
        println!("skipped: one CPU only, so that there is no other core to flood from");
        return;
    }
    let (engine, mut session) =
        start(&Config { receive_buffer: 4096, cores: Some(vec![first]), ..config() });
    let leases = register_all(&mut session, 100, 1000);
    let stop = AtomicBool::new(false);
    let mut flooded = 0_u64;
    std::thread::scope(|scope| {
        scope.spawn(|| keep_beating(&engine, &leases, Duration::from_millis(100), &stop));
        scope.spawn(|| {
            core_affinity::set_for_current(core_affinity::CoreId { id: last });
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            while !stop.load(Relaxed) {
                flooded += u64::from(socket.send_to(&[7; 1000], engine.addresses()[0]).is_ok());
            }
        });
        let _ending = StopOnDrop(&stop);
        // The flood drops questions, too.
        session.set_patience(Duration::from_millis(10));
        let mut asked = |stat: Stat| session.stats().map_or(0, |stats| stats.get(stat));
        eventually("datagrams are dropped", || asked(Stat::KernelDrops) > 1000);
        eventually("the engine knows that it is deaf", || asked(Stat::Deafness) > 0);
        // Longer than the TTL and the three more that grace may last.
        std::thread::sleep(Duration::from_secs(5));
    });
    session.set_patience(Duration::from_millis(200));
    let stats = session.stats().unwrap();
    let drops = stats.get(Stat::KernelDrops);
    println!("{drops} of {flooded} datagrams dropped");
    assert!(drops > 1000, "nothing was dropped");
    assert_eq!(stats.get(Stat::Downs), 0, "of {drops} drops");
    assert!(stats.get(Stat::Deafness) > 0);
}
