//! What memory bounds: beats applied beside a walk over as many lines, and lookups beside other
//! hash tables.

use crate::floors::LineWalk;
use crate::lab::Lab;
use crate::machine;
use crate::report::Goal;
use crate::scenarios::memory::{
    Directory, Keys, PACED, Plane, TABLES, Table, plain, while_writing,
};

/// G4: decoding and applying batches of beats for random leases.
pub(super) fn apply(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let cpu = lab.engine_cpu;
    let measure = |(leases, name): (u32, &str)| {
        let mut both = machine::pinned(cpu, || {
            LineWalk::new(leases as usize, true).map(|walk| (Plane::new(leases), walk))
        })?;
        let pairs = lab.pairs_on(
            cpu,
            &mut both,
            |(plane, _)| Ok(plane.apply(50, true)),
            |(_, walk)| Ok(walk.walk(true)),
        )?;
        let what = format!("decoding and applying a beat in batches of 50, {name} leases");
        Ok(Goal::ratio("G4", what, "ns", &pairs, 1.5).against("prefetched line store"))
    };
    [(1 << 16, "64 k"), (1 << 20, "1 M"), (1 << 24, "16 M")].into_iter().map(measure).collect()
}

/// G5: finding an instance by service and name.
pub(super) fn lookup(lab: &mut Lab) -> Result<Vec<Goal>, String> {
    let (cpu, writer_cpu) = (lab.engine_cpu, lab.generator_cpu);
    let keys = Keys::random();
    let mut tables = (Directory::new()?, plain());
    let what = "lookup by service and instance, a million";
    let pairs = lab.pairs_on(
        cpu,
        &mut tables,
        |(directory, _)| Ok(directory.split().0(&keys)),
        |(_, table)| Ok(table.split().0(&keys)),
    )?;
    let goal = Goal::ratio("G5", what, "ns", &pairs, 1.0).against("hashbrown, one thread");
    let note = "ours is on huge pages, theirs where the allocator puts it";
    let mut goals = vec![goal.note(note)];
    let mut directory = tables.0;
    for (name, make) in TABLES {
        let mut table = make();
        let pairs = lab.pairs_on(
            cpu,
            &mut (&mut directory, &mut *table),
            |(directory, _)| Ok(while_writing(writer_cpu, PACED, *directory, &keys).0),
            |(_, table)| Ok(while_writing(writer_cpu, PACED, *table, &keys).0),
        )?;
        let what = "lookup while another thread adds and removes";
        goals.push(Goal::ratio("G5", what, "ns", &pairs, 0.5).against(name));
    }
    Ok(goals)
}
