//! Every model, in every order that loom finds. What could go wrong: a torn read, a beat on the
//! wrong lease, a key that is there and not found, a wake-up that gets lost, a verdict without a
//! beat that was applied.

use heartline_loom::{client, engine, region};

/// Explores a model with so many preemptions at most. Musuvathi and Qadeer (PLDI 2007) found every
/// bug of theirs with two; `LOOM_MAX_PREEMPTIONS` sets another bound.
fn explore(model: fn(), preemptions: usize) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.check(model);
}

macro_rules! models {
    ($($name:ident: $model:path, $preemptions:literal;)+) => {
        $(#[test]
        fn $name() {
            explore($model, $preemptions);
        })+
    };
}

models! {
    seqlock_readers_see_whole_writes: region::models::seqlock, 3;
    endpoints_are_never_torn: region::models::endpoint, 3;
    a_late_beat_never_lands_on_the_next_lease: region::models::heart_line_reuse, 3;
    a_line_changes_hands_with_its_secret: region::models::heart_line_secret, 3;
    a_lease_is_whole_when_it_is_granted: region::models::heart_line_grant, 3;
    index_inserts_whole_entries: region::models::index_insert, 3;
    index_loses_no_neighbour: region::models::index_remove, 3;
    index_replaces_without_a_gap: region::models::index_replace, 3;
    feed_events_are_never_mixed: region::models::feed, 3;
    feed_has_what_it_announces: region::models::feed_announces, 3;
    commands_are_never_left_behind: engine::models::command_hand_over, 3;
    a_drain_wakes_one_loop_and_the_registrar: engine::models::drain_of_one_loop, 3;
    a_drain_wakes_two_loops_and_the_registrar: engine::models::drain_of_two_loops, 2;
    a_drain_shows_every_beat: engine::models::drained_means_applied, 3;
    a_wish_comes_with_its_queue: engine::models::a_wish_comes_with_its_queue, 3;
    a_stop_reaches_sleepers: engine::models::stop, 3;
    the_watch_thread_hears_of_both: engine::models::watcher_hears_of_both, 2;
    the_watch_thread_sleeps_over_events: engine::models::watcher_sleeps_over_events, 3;
    views_are_whole_and_in_order: client::models::publication, 3;
    views_of_other_sizes_are_whole: client::models::growth, 3;
}
