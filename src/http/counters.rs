//! Every total of the node, as `/metrics` names it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::backend::CounterSample;
use crate::node::Node;
use crate::placement::balance::Refusal;
use crate::session::host::Cause;

/// What is counted where HTTP meets the node.
#[derive(Debug, Default)]
pub(super) struct Door {
    /// Players that were sent to the stream's home.
    pub(super) redirects: AtomicU64,
    /// Publishers that were sent to another node, since this one leaves.
    pub(super) sent_on: AtomicU64,
    /// Requests from other machines without a credential.
    pub(super) no_credential: AtomicU64,
    /// Credentials that are not good.
    pub(super) bad_credential: AtomicU64,
    /// Redirect tokens that are not good here, or no more.
    pub(super) bad_redirect: AtomicU64,
}

/// Every total that the node keeps.
pub(super) fn counters(node: &Node, door: &Door) -> Vec<CounterSample> {
    let totals = node.totals();
    let hub = node.hubs().counters();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let mut out = Vec::new();
    let mut add = |name, help, label: &'static str, rows: &[(&str, u64)]| {
        for (value, count) in rows {
            let labels = vec![(label, (*value).to_owned())];
            out.push(CounterSample { name, help, labels, value: *count });
        }
    };
    let (bytes_in, bytes_out) = (read(&hub.bytes_in), read(&hub.bytes_out));
    let bytes = [("in", bytes_in), ("out", bytes_out)];
    add("relay_bytes", "Payload bytes of streams.", "direction", &bytes);
    let frames = [("in", read(&hub.frames_in)), ("out", read(&hub.frames_out))];
    add("relay_frames", "Frames of streams.", "direction", &frames);
    let packets_out = read(&hub.packets_out.first) + read(&hub.packets_out.again);
    let packets = [("in", read(&hub.packets_in)), ("out", packets_out)];
    add("relay_packets", "Packets of streams over QUIC.", "direction", &packets);
    let lost = [("quic", read(&hub.packets_lost)), ("webrtc", read(&hub.publisher_packets_lost))];
    add("relay_packets_lost", "Packets that never came, though asked for.", "protocol", &lost);
    let repairs = [("asked", read(&hub.packets_asked)), ("resent", read(&hub.packets_out.again))];
    add("relay_repairs", "Packets asked for, and sent, once more.", "direction", &repairs);
    let drops = [
        ("slow_receiver", read(&hub.frames_dropped)),
        ("stale_feed", read(&hub.frames_stale)),
        ("after_stall", totals.drops.1),
    ];
    add("relay_frames_dropped", "Frames that were not passed on.", "cause", &drops);
    let (control, host) = (&totals.control, &totals.host);
    let mesh = [
        ("malformed", control.malformed),
        ("unknown_tag", control.unknown_tags),
        ("unlinked", control.unlinked),
    ];
    add("link_messages_dropped", "Messages of members that were not used.", "cause", &mesh);
    let rows = totals.ledger.rows();
    add(
        "ledger_events",
        "Changes and records of the ledger by what became of them.",
        "what",
        &rows,
    );
    let sent = [("out", control.ledger_bytes)];
    add("ledger_bytes", "Bytes of the ledger's messages.", "direction", &sent);
    let listeners = [("listener", totals.changes_lost)];
    add("record_changes_lost", "Changes that somebody read too slowly.", "cause", &listeners);
    let joins = [("admitted", control.admitted), ("refused", control.refused)];
    add("joins", "Newcomers.", "result", &joins);
    let expelled = [
        ("revoked", control.revoked),
        ("surplus", control.surplus),
        ("readmitted", control.readmitted),
    ];
    add("members_changed", "Nodes that were shut out or let in again.", "how", &expelled);
    let redirects = [("whep", read(&door.redirects)), ("whip", read(&door.sent_on))];
    let help = "Players sent to a stream's home, publishers away from here.";
    add("redirects", help, "protocol", &redirects);
    let failures = [
        ("credential", read(&door.bad_credential)),
        ("none", read(&door.no_credential)),
        ("redirect", read(&door.bad_redirect)),
        ("native", host.denied),
    ];
    add("auth_failures", "Whoever was not let in, by what was shown.", "method", &failures);
    add("members_down", "Members declared down.", "by", &[("this_node", control.downs)]);
    let clients = [
        ("malformed", host.malformed),
        ("unknown_tag", host.unknown_tags),
        ("denied", host.denied),
        ("full", host.full),
        ("not_reading", totals.drops.0),
        ("forbidden", host.forbidden),
        ("right_lost", host.ended),
    ];
    add("client_refusals", "Messages and clients that were refused.", "cause", &clients);
    let registrations = [
        ("rejected", host.rejected),
        ("superseded", host.superseded),
        ("unclaimed", host.unclaimed),
        ("adopted", host.adopted),
    ];
    let moved: Vec<(&str, u64)> = Cause::ALL
        .into_iter()
        .zip(host.moved)
        .map(|(cause, count)| (cause.label(), count))
        .collect();
    add("moves", "Encoders that went elsewhere because this node asked them to.", "reason", &moved);
    let failed = [("moves", host.moves_failed)];
    add("moves_failed", "Moves that were refused or came to nothing.", "what", &failed);
    let of = &totals.balance;
    let rows = [
        ("asked", of.asked),
        ("granted", of.granted),
        ("unanswered", of.unanswered),
        ("skipped", of.skipped),
        ("promised", of.promised),
        ("declined", of.declined),
        ("arrived", of.arrived),
    ];
    let help = "Encoders that nodes asked each other to take, by what became of that.";
    add("balance_asks", help, "what", &rows);
    let refused: Vec<(&str, u64)> =
        Refusal::ALL.into_iter().zip(of.refused).map(|(why, count)| (why.label(), count)).collect();
    add("balance_refusals", "Encoders that another node did not take.", "reason", &refused);
    add("registrations", "What became of encoders' claims.", "result", &registrations);
    add("stalls", "Times that this process stood still.", "where", &[("control", host.stalls)]);
    let help =
        "Streams that were taken from their agent, since another node brought nothing of them.";
    add("detours", help, "from", &[("silent", host.detours)]);
    add("keyframe_requests", "Keyframe requests passed on.", "to", &[("encoder", host.keyframes)]);
    let of = &totals.membership;
    let rows = [
        ("malformed", of.malformed),
        ("not_the_sender", of.not_the_sender),
        ("refused", of.refused),
        ("over_limit", of.over_limit),
        ("silent", of.silent),
        ("refuted", of.refuted),
        ("spared", of.spared),
        ("doubted", of.doubted),
        ("stalls", of.stalls),
        ("reborn_stalled", of.reborn_stalled),
        ("reborn_isolated", of.reborn_isolated),
        ("reborn_split", of.reborn_split),
        ("reborn_retimed", of.reborn_retimed),
        ("reborn_outgrown", of.reborn_outgrown),
        ("rejoined", of.rejoined),
    ];
    add("membership_events", "What membership refused, or did out of the ordinary.", "what", &rows);
    let of = &totals.directory;
    let rows = [
        ("applied", of.applied),
        ("duplicates", of.duplicates),
        ("gaps", of.gaps),
        ("stale", of.stale),
        ("forgotten", of.forgotten),
        ("refused", of.refused),
        ("forwarded", of.forwarded),
        ("digests", of.digests),
        ("overtaken", of.overtaken),
        ("floors_told", of.floors_told),
        ("floors_dropped", of.floors_dropped),
    ];
    add("directory_events", "Deltas and digests by what became of them.", "what", &rows);
    add("gossip_events", "The gossip of node reports.", "what", &totals.gossip);
    let net = node.net();
    for (name, cause, value) in net.counters().all().into_iter().chain(net.dropped()) {
        let labels = vec![("kind", name.to_owned()), ("cause", cause.to_owned())];
        let help = "What the network side dropped or refused.";
        out.push(CounterSample { name: "net_events", help, labels, value });
    }
    out
}
