//! Every plan that is kept as a file passes. Some were made to describe what must hold, others are
//! what is left of a defect that was found.

use std::collections::BTreeSet;
use std::path::Path;

use roost_sim::plan::Plan;
use roost_sim::{Watch, run};

fn plays(file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans").join(format!("{file}.json"));
    let text = std::fs::read_to_string(&path).expect("the plan is there");
    let plan: Plan = serde_json::from_str(&text).expect("the plan is one");
    assert_eq!(plan.name, file, "a plan is named after its file");
    let outcome = run(&plan, Watch::Keep);
    if let Some(violation) = outcome.violation {
        let last: Vec<&String> = outcome.lines.iter().rev().take(60).rev().collect();
        panic!("{file}: {violation}\nits last lines are {last:#?}");
    }
}

macro_rules! plans {
    ($($name:ident = $file:literal,)*) => {
        $(#[test] fn $name() { plays($file); })*

        #[test]
        fn every_plan_is_played() {
            let played = BTreeSet::from([$($file.to_owned()),*]);
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("plans");
            let files = std::fs::read_dir(folder).expect("the plans are there");
            let names = files.map(|file| {
                let path = file.expect("a file").path();
                path.file_stem().expect("a name").to_string_lossy().into_owned()
            });
            assert_eq!(names.collect::<BTreeSet<_>>(), played);
        }
    };
}

plans! {
    what_is_void_before_it_is_on_disk_counts_nowhere = "an-outcast-writes-to-the-last",
    who_cannot_leave_a_drained_node_keeps_nobody_else_from_it =
        "idle-ones-keep-watched-ones-at-a-drained-node",
    who_stood_by_and_is_in_the_pool_no_more_is_not_home_when_home_leaves =
        "home-leaves-when-next-is-in-the-pool-no-more",
    who_leaves_a_room_is_not_counted_as_one_of_it = "an-encoder-leaves-its-room",
    those_of_one_side_do_not_believe_what_the_side_that_does_not_hear_them_says =
        "cut-one-way-for-two-seconds",
    who_was_cut_off_for_a_second_is_not_believed = "cut-for-one-second",
    who_waits_for_an_encoder_finds_it_where_its_last_home_does_not_see_it =
        "encoder-returns-to-a-node-that-is-cut-off",
    what_was_granted_before_another_died_is_not_moved = "even-another-dies-as-the-period-ends",
    who_is_heard_again_is_asked_before_it_is_called_down = "slow-for-half-a-second",
    who_knows_of_no_home_finds_it_in_the_other_part_of_the_mesh =
        "viewer-where-all-but-one-are-cut-off-from-home",
    a_next_that_its_encoder_does_not_reach_is_given_up = "next-cut-from-encoder",
    what_is_said_to_one_that_is_linked_with_both_is_handed_on = "news-comes-by-a-third",
    who_is_watched_before_it_has_gone_stays = "even-watched-on-the-way",
    a_next_that_leaves_is_not_dialled_at_once_again_and_again = "next-leaves-right-after-home-died",
    a_viewer_is_let_in_at_once_by_a_node_that_was_started_anew = "viewer-whose-nodes-start-anew",
    a_viewer_does_not_go_to_and_fro_where_nodes_differ = "nodes-differ-about-who-is-next",
    a_newcomer_takes_what_does_not_go_into_one_answer = "newcomer-far-behind",
    a_viewer_that_nobody_lets_in_does_not_go_to_and_fro = "nodes-differ-about-who-is-up",
    a_seed_that_lets_go_of_each_link_is_dialled_ever_more_rarely =
        "older-folder-after-a-newer-life",
    a_viewer_that_is_refused_does_not_come_again_at_once =
        "viewer-that-a-node-lets-in-and-refuses",
    who_is_suspected_hears_of_it_before_it_is_silent_again =
        "isolated-twice-for-less-than-a-suspicion",
    what_a_node_that_is_shut_out_wrote_too_late_counts_nowhere =
        "revoked-while-its-write-is-not-on-disk",
    who_is_shut_out_right_after_another_change_is_left_out_at_once =
        "trust-revoked-right-after-another-change",
    what_came_before_another_agent_was_at_home_is_shown_to_nobody =
        "first-agent-returns-long-after-another",
    who_is_on_its_way_at_the_end_has_a_next_when_it_is_there = "run-ends-while-an-encoder-moves",
    who_may_not_watch_any_more_is_not_shown_what_follows =
        "home-killed-while-a-viewer-loses-its-right",
    a_keyframe_is_asked_for_again_where_the_picture_comes_from_now =
        "viewer-moves-while-it-wants-a-keyframe",
    who_is_refused_by_a_node_that_is_shut_out_tries_those_that_were_dead =
        "shut-out-alone-and-the-others-return",
    nodes_that_were_shut_out_delay_no_verdict = "frozen-after-two-were-shut-out",
    who_came_back_stands_by_for_its_share = "even-next-dies-after-another-came-back",
    a_next_that_stood_still_and_that_home_does_not_see_need_not_stand_by =
        "next-wakes-cut-off-from-home",
    a_room_comes_together_and_goes_together = "room-goes-together",
    who_comes_is_led_to_the_others_of_its_room = "room-that-others-come-to",
    those_of_a_room_that_nobody_watches_come_to_those_that_are_watched =
        "room-of-some-that-are-watched",
    who_comes_goes_to_the_node_that_carries_no_media =
        "newcomers-where-one-node-carries-no-media",
    a_false_word_of_media_does_no_harm = "false-word-of-media",
    what_a_node_wrote_twice_under_one_number_is_found_on_contact = "ledger-folder-put-back-twice",
    a_node_that_starts_anew_and_reaches_nobody_tells_where_the_others_were =
        "started-anew-alone-and-asked-for-the-others",
    an_encoder_whose_claim_only_one_node_knows_to_be_void_is_found_again =
        "home-below-a-floor-that-one-node-knows",
    a_next_that_home_does_not_see_stands_by = "next-cut-from-home",
    a_newcomer_that_keeps_its_load_secret_gets_no_more_than_its_share =
        "even-newcomer-keeps-its-load-secret",
    who_becomes_watched_while_others_move_is_not_moved = "even-watched-meanwhile",
    a_node_of_capacity_0_is_emptied_and_comes_back = "even-capacity-zero-and-back",
    where_no_node_has_any_capacity_all_are_equal = "even-no-capacity-anywhere",
    what_two_drain_wholly_at_once_is_served_and_even_in_the_end = "even-all-drained-by-two",
    a_last_node_that_is_drained_goes_on_with_all = "even-last-node-drained",
    halves_are_even_again_once_they_meet = "even-halves",
    loss_keeps_nobody_from_being_even = "even-in-loss",
    a_drained_home_is_empty_soon_and_nobody_sees_it = "home-drained",
    a_home_that_took_over_from_a_drained_one_and_is_not_heard_is_left_at_once =
        "home-drained-then-mute-twice",
    a_home_that_took_over_from_a_drained_one_and_hears_nothing_is_left_at_once =
        "home-drained-then-deaf-twice",
    a_drained_home_may_die_before_it_is_empty = "home-drained-and-killed-meanwhile",
    nodes_are_emptied_one_after_the_other = "one-after-the-other-drained",
    nodes_that_are_all_drained_go_on = "all-drained-at-once",
    a_node_hears_that_it_is_drained_once_it_is_not_cut_off = "drained-in-the-other-half",
    cordoned_nodes_take_what_has_no_other_home = "cordoned-but-for-one-that-dies",
    who_may_be_nowhere_waits_for_its_pool_and_what_runs_goes_on = "pool-without-nodes",
    a_pool_that_all_prefer_takes_all_and_the_others_do_when_it_dies = "pool-that-all-prefer",
    labels_that_change_under_way_count_for_who_comes = "labels-change-under-way",
    encoders_that_are_sent_around_are_never_dark = "encoders-sent-around",
    a_revoked_node_is_dropped_by_all_and_comes_back_only_when_it_is_readmitted = "trust-revoked",
    homes_that_are_revoked_are_left = "trust-home-revoked",
    what_a_revoked_node_did_in_another_half_is_void = "trust-split",
    two_that_revoke_each_other_come_back_one_after_the_other = "trust-mutual",
    three_that_revoke_each_other_in_a_circle_come_back = "trust-circle",
    keys_change_through_crashes_and_splits = "trust-keys",
    newcomers_join_by_a_node_whose_clock_is_ten_years_off = "trust-clock",
    halves_of_a_mesh_merge_what_people_changed = "ledger-halves",
    no_crash_takes_back_what_was_acknowledged = "ledger-crashes",
    nodes_that_were_alone_merge_what_people_changed = "ledger-alone",
    nobody_watches_who_may_not_once_two_halves_have_met = "rights-in-halves",
    nobody_watches_who_may_not_whoever_crashes = "rights-and-crashes",
    a_viewer_heeds_the_node_that_knows_of_its_stream =
        "viewer-allowed-while-its-nodes-disagree",
    an_old_backup_that_is_put_back_takes_nothing_from_anybody = "ledger-old-backup",
    records_that_cannot_be_read_come_again = "ledger-unreadable",
    a_viewer_hardly_notices_that_home_is_killed = "home-killed",
    next_takes_over_for_good = "home-killed-for-good",
    two_nodes_are_enough_to_lose_one = "home-killed-among-two",
    a_home_that_stood_still_lets_go = "home-frozen-and-woken",
    a_home_that_stood_still_lets_go_also_when_its_successor_died =
        "home-frozen-woken-after-next-died",
    a_home_that_stood_still_is_found_again_when_nobody_else_is_left =
        "home-frozen-woken-after-next-died-among-two",
    a_blink_moves_nothing_for_long = "home-frozen-for-a-blink",
    a_home_that_nobody_reaches_is_left = "home-cut-from-everyone",
    a_home_that_its_encoder_does_not_reach_is_left = "home-cut-from-encoder",
    viewers_that_do_not_reach_home_are_served_elsewhere = "home-cut-from-viewers",
    a_home_that_does_not_hear_its_encoder_is_left = "home-deaf-to-encoder",
    a_home_that_its_encoder_does_not_hear_is_left = "home-mute-to-encoder",
    one_node_of_five_serves_all = "all-but-one-die",
    one_node_of_five_serves_all_for_good = "all-but-one-die-for-good",
    the_first_to_return_serves_all = "all-die-one-returns",
    a_mesh_that_lost_power_comes_back = "all-die-all-return",
    a_mesh_that_lost_power_while_it_was_split_comes_back = "all-die-while-split-and-return",
    two_that_see_only_a_third_serve_each_others_streams = "two-see-only-a-third",
    home_and_a_viewers_node_see_only_a_third = "home-and-viewers-node-see-only-a-third",
    a_node_that_is_told_to_stop_hands_over_first = "told-to-stop",
    the_only_node_may_stop_too = "told-to-stop-alone",
    all_nodes_are_restarted_one_after_the_other = "told-to-stop-one-after-the-other",
    sixteen_start_at_once = "burst-of-sixteen",
    sixteen_join_at_once = "burst-of-sixteen-invited",
    nothing_happens_for_ten_minutes_far_apart = "idle-far-apart",
    two_halves_become_one_again = "halves",
    two_halves_serve_their_own_clients = "halves-with-clients",
    an_encoder_that_reaches_nobody_comes_back = "encoder-alone",
    an_agent_that_was_killed_goes_on_above_its_old_epochs = "agent-killed",
    an_agent_that_stood_still_comes_back = "agent-frozen",
    home_is_killed_again_and_again = "home-killed-again-and-again",
    home_and_next_are_killed_together = "home-and-next-killed",
    a_rough_network_is_survived = "rough-network",
    another_next_is_found_when_next_is_told_to_stop = "next-told-to-stop",
    the_only_candidate_is_next_again_once_it_is_reached = "next-unreachable-only-candidate",
    nobody_is_next_whom_home_does_not_see = "next-returns-where-home-does-not-see-it",
    next_that_stood_still_with_home_shows_nothing_old = "next-frozen-with-home",
    a_registration_that_waited_at_a_frozen_next_is_not_believed =
        "registration-waits-at-frozen-next",
    of_two_agents_of_an_encoder_one_waits = "two-agents",
    two_agents_of_an_encoder_do_not_take_turns_when_home_dies = "two-agents-home-killed",
    two_agents_of_an_encoder_settle_when_two_halves_meet = "two-agents-in-halves",
    lost_pings_of_idle_legs_move_nobody = "idle-legs-lossy",
    a_node_whose_old_folder_is_put_back_is_believed = "old-folder-after-many-starts",
    a_home_whose_old_folder_is_put_back_is_believed = "home-gets-old-folder",
    a_node_whose_older_folders_are_put_back_uses_no_number_twice =
        "older-folders-one-after-the-other",
    a_node_that_relays_and_stood_still_shows_nothing_old = "relay-frozen-and-woken",
    a_viewer_whose_node_has_no_path_to_home_sees = "viewers-node-without-home",
    a_viewer_that_begins_where_no_home_is_known_looks_elsewhere =
        "viewer-begins-at-a-node-that-hears-nothing-of-home",
    an_encoder_waits_for_the_only_node_that_it_was_told_of =
        "encoder-told-of-one-that-joins-late-and-is-cut-off",
    a_request_for_a_keyframe_that_is_lost_is_made_again = "keyframes-lost-and-asked-again",
    a_wish_for_a_keyframe_survives_the_home_that_was_asked =
        "home-killed-while-a-keyframe-is-wanted",
    a_thousand_encoders_do_not_stampede_three_survivors = "thousand-one-killed",
    a_thousand_encoders_do_not_stampede_fifteen_survivors = "thousand-one-of-sixteen-killed",
    a_node_that_refuses_to_be_next_is_not_pestered = "nodes-that-refuse-to-be-next",
    a_camera_that_ignores_requests_is_not_pestered = "camera-that-ignores-requests",
}
