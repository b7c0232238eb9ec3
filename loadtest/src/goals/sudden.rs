//! Deaths of processes, seen by a watcher on the same machine.

use crate::bed::Bed;
use crate::lab::Lab;
use crate::machine;
use crate::mortal::Mortal;
use crate::report::{Chart, Goal, histogram, micros, number};
use hdrhistogram::Histogram;
use heartline::internals::clock;
use heartline_region::{Cause, EventKind, View};
use std::time::Duration;

/// Processes that are killed, one after the other.
const DEATHS: u64 = 500;
/// A death that is not seen by then is not seen.
const LONGEST: Duration = Duration::from_secs(2);
/// The percentile that has the goal, and the goal.
const QUANTILE: f64 = 0.99;
const GOAL_MS: f64 = 5.0;

/// G19: from SIGKILL to the watcher that waits for events of the public file.
pub(super) fn deaths(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let bed = Bed::start(16_384, lab.engine_cpu, &["--snapshot", "off"])?;
    let cpu = lab.generator_cpu;
    let times = machine::pinned(cpu, || killed(cpu, &bed))?;
    let ms = |quantile| micros(&times, quantile) / 1e3;
    let what = "death of a process to its watcher on the same host, p99";
    let goal = Goal::bound("G19", what, "ms", ms(QUANTILE), GOAL_MS);
    let title = format!("A process that dies is down for others after {} ms", number(ms(0.5)));
    lab.charts.push(Chart::latencies(title, &[("killed to seen", &times)]));
    Ok(vec![goal.note(format!(
        "{} killed with SIGKILL, all seen with the cause that the process died; p50 {} ms, \
         longest {} ms",
        times.len(),
        number(ms(0.5)),
        number(ms(1.0))
    ))])
}

/// Nanoseconds from the call that kills each process to the event in the watcher's hands.
fn killed(cpu: usize, bed: &Bed) -> Result<Histogram<u64>, String> {
    let mut view = View::open(bed.state()?).map_err(|error| error.to_string())?;
    let mut times = histogram();
    for _ in 0..DEATHS {
        let mut mortal = Mortal::start(cpu, bed.target, bed.state()?)?;
        let mut seen = view.head();
        let begin = clock::now();
        mortal.kill()?;
        let took = loop {
            let now = clock::now();
            if now - begin > LONGEST.as_nanos() as u64 {
                return Err(format!("a death was not seen after {LONGEST:?}"));
            }
            if is_down(&view, &mut seen, &mortal)? {
                break now - begin;
            }
            view.wait(seen, LONGEST);
        };
        let _ = times.record(took);
    }
    Ok(times)
}

/// Whether the events after the last one that was seen tell of the death.
fn is_down(view: &View, seen: &mut u64, mortal: &Mortal) -> Result<bool, String> {
    let mut events = view.events(*seen);
    let mut is_down = false;
    for event in &mut events {
        let (_, event) = event.map_err(|lost| lost.to_string())?;
        if (event.slot, event.generation) == mortal.lease && event.kind == EventKind::Down {
            if event.cause != Cause::Died {
                return Err(format!("an instance is down for another cause: {:?}", event.cause));
            }
            is_down = true;
        }
    }
    *seen = events.number();
    Ok(is_down)
}
