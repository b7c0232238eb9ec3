//! The tables against plain maps.

use super::*;
use crate::region::{Geometry, Place, Run};
use proptest::prelude::*;
use std::collections::BTreeMap;
use zerocopy::FromZeros;

/// A service as a plain model: its revision and its members, with state and weight.
#[derive(Debug, Default)]
struct Model {
    revision: u64,
    members: BTreeMap<Slot, (State, u16)>,
}

fn change(slot: Slot, membership: Membership, state: State) -> Change<'static> {
    Change {
        slot,
        membership,
        happening: Happening::new(EventKind::Updated, Cause::Request),
        state: state.into(),
        until: Moment::ZERO,
        attributes: None,
    }
}

fn check(tables: &Tables, models: &BTreeMap<ServiceNumber, Model>) -> Result<(), TestCaseError> {
    for (&service, model) in models {
        let meta = tables.entry(service).meta();
        let listed: Vec<Slot> = model
            .members
            .iter()
            .filter(|(_, member)| member.0 != State::Down)
            .map(|(&slot, _)| slot)
            .collect();
        prop_assert_eq!(
            (meta.revision, meta.total as usize),
            (model.revision, model.members.len())
        );
        let mut slots = Vec::new();
        for position in 0..meta.listed {
            let slot = tables.slot_at(meta.list, position);
            let line = &tables.region.endpoints()[slot.index()];
            prop_assert_eq!((line.service(), line.position()), (service, position));
            slots.push(slot);
        }
        slots.sort_unstable();
        prop_assert_eq!(slots, listed);
        prop_assert!(meta.list.capacity() >= meta.listed && !meta.list.is_sparse(meta.listed));
        for (&slot, &(state, weight)) in &model.members {
            let entry = tables.region.endpoints()[slot.index()].entry();
            prop_assert_eq!(
                (entry.state, entry.weight.get(), entry.slot()),
                (state as u8, weight, slot)
            );
        }
    }
    let peopled = models.values().filter(|model| !model.members.is_empty()).count();
    prop_assert_eq!(tables.region.service_count().unwrap().1 as usize, peopled);
    Ok(())
}

proptest! {
    #![proptest_config(crate::registrar::kept_seeds())]

    /// A list that keeps a slot which left, an endpoint with an old weight, a revision that
    /// stands still: discovery would believe all of them.
    #[test]
    fn directory_lists_and_endpoints_tell_what_maps_tell(
        steps in prop::collection::vec((0_u8..4, 0_u32..48, 0_usize..3, any::<u16>()), 1..150),
    ) {
        let never = std::sync::atomic::AtomicBool::new(false);
        let geometry = Geometry::new(64, 0);
        let (region, right) =
            Region::create(&Place::Scratch, geometry, Run::default(), &never).unwrap();
        let mut tables = Tables::new(Arc::new(region), right);
        let mut models = BTreeMap::new();
        for name in ["a", "b", "c"] {
            let id = crate::wire::service_id(name);
            let service = tables.create_service(id, &Name::new(name).unwrap()).unwrap();
            let revision = tables.entry(service).meta().revision;
            models.insert(service, Model { revision, ..Model::default() });
        }
        let services: Vec<ServiceNumber> = models.keys().copied().collect();
        let now = Moment::from_nanos(9);
        for (number, (action, slot, service, weight)) in steps.into_iter().enumerate() {
            let slot = Slot::new(slot);
            let home = models.iter().find(|(_, model)| model.members.contains_key(&slot));
            let service = match (action, home.map(|(&service, _)| service)) {
                (0, None) => {
                    let service = services[service];
                    tables.reserve(service).unwrap();
                    tables.endpoint(slot).set_place(&tables.right, service, 0);
                    let entry = Endpoint {
                        slot: slot.into(),
                        weight: weight.into(),
                        state: State::Up as u8,
                        ..Endpoint::new_zeroed()
                    };
                    let joins = change(slot, Membership::Joins, State::Up);
                    tables.change(now, joins, |endpoint| *endpoint = entry);
                    models.get_mut(&service).unwrap().members.insert(slot, (State::Up, weight));
                    service
                }
                (1, Some(service)) => {
                    let leaves = Change {
                        state: HeartState::Removed,
                        ..change(slot, Membership::Leaves, State::Up)
                    };
                    tables.change(now, leaves, |_| {});
                    models.get_mut(&service).unwrap().members.remove(&slot);
                    service
                }
                (2 | 3, Some(service)) => {
                    let state = [State::Up, State::Suspect, State::Down][usize::from(weight % 3)];
                    tables.reserve(service).unwrap();
                    let stays = change(slot, Membership::Stays, state);
                    tables.change(now, stays, |endpoint| endpoint.weight = weight.into());
                    models.get_mut(&service).unwrap().members.insert(slot, (state, weight));
                    service
                }
                _ => continue,
            };
            models.get_mut(&service).unwrap().revision += 1;
            check(&tables, &models)
                .map_err(|error| TestCaseError::fail(format!("step {number}: {error}")))?;
        }
        let told = models.values().map(|model| model.revision).sum::<u64>();
        prop_assert_eq!(tables.region.feed().head(), told);
    }
}
