//! `GET /metrics`: read from the node's real state at every scrape; nothing is kept twice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::App;
use super::auth::Caller;
use super::backend::Backend;
use super::login::Logins;
use super::problem::Problem;
use super::server::ServerCounters;
use crate::access::{Right, Scope};
use crate::cluster::{EncoderState, Liveness};

/// Encoders that get series of their own; with more, only the totals are exported.
const MAX_ENCODER_SERIES: usize = 500;

/// The commit that was built, as far as whoever built it said so.
const REVISION: &str = match option_env!("ROOST_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

type Labels = Vec<(&'static str, String)>;

/// What the HTTP side counts itself.
pub(super) struct Http {
    counters: Arc<ServerCounters>,
    durations: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Http {
    pub(super) fn new(counters: Arc<ServerCounters>) -> Self {
        let histogram: fn() -> Histogram =
            || Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 5.0]);
        Self { counters, durations: Family::new_with_constructor(histogram) }
    }
}

/// Times every request.
pub(super) async fn observe(
    State(app): State<App>,
    route: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let start = Instant::now();
    // Both labels come from short fixed lists, whatever a client sends.
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS") => known,
        _ => "other",
    };
    let method = method.to_owned();
    let response = next.run(request).await;
    let labels = vec![
        ("method", method),
        ("route", route.map_or_else(|| "none".to_owned(), |route| route.as_str().to_owned())),
        ("status", response.status().as_u16().to_string()),
    ];
    app.metrics.durations.get_or_create(&labels).observe(start.elapsed().as_secs_f64());
    response
}

/// `GET /metrics`.
pub(super) async fn scrape(
    State(app): State<App>,
    headers: HeaderMap,
    caller: Caller,
) -> Result<Response, Problem> {
    caller.needs(&*app.backend, Right::View, Scope::Mesh)?;
    let mut all = Registry::default();
    let registry = all.sub_registry_with_prefix("roost");
    registry.register_with_unit(
        "http_request_duration",
        "Time to the head of the response",
        Unit::Seconds,
        app.metrics.durations.clone(),
    );
    let node = NodeCollector {
        backend: app.backend.clone(),
        counters: app.metrics.counters.clone(),
        logins: app.logins.clone(),
    };
    if let Some(failovers) = app.backend.metrics().failovers {
        registry.register_with_unit(
            "failover",
            "From the last sign of what was lost to the new one",
            Unit::Seconds,
            failovers,
        );
    }
    registry.register_collector(Box::new(node));
    all.register_collector(Box::new(super::process::Process));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &all).map_err(|_fmt| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written")
    })?;
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let (content_type, text) =
        if accepts.is_some_and(|a| a.contains("application/openmetrics-text")) {
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", text)
        } else {
            ("text/plain; version=0.0.4; charset=utf-8", classic(&text))
        };
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}

/// The classic text format from OpenMetrics: there a counter's family has no `_total`, and units
/// and the end are marked.
fn classic(open: &str) -> String {
    let mut counters = Vec::new();
    for line in open.lines() {
        if let Some(name) = line.strip_prefix("# TYPE ").and_then(|l| l.strip_suffix(" counter")) {
            counters.push(name);
        }
    }
    let mut out = String::with_capacity(open.len());
    for line in open.lines() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(&name) => {
                out.push_str(&format!("# {kind} {name}_total {rest}\n"));
            }
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

struct NodeCollector {
    backend: Arc<dyn Backend>,
    counters: Arc<ServerCounters>,
    logins: Arc<Logins>,
}

impl fmt::Debug for NodeCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeCollector")
    }
}

struct Out<'a>(DescriptorEncoder<'a>);

impl Out<'_> {
    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        samples: &[(Labels, f64)],
    ) -> fmt::Result {
        if samples.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in samples {
            ConstGauge::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn counters(&mut self, name: &str, help: &str, samples: &[(Labels, u64)]) -> fmt::Result {
        if samples.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(*value).encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }
}

impl Collector for NodeCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        let view = self.backend.view();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let build = vec![("version", version), ("revision", REVISION.to_owned())];
        out.gauges("build_info", "The running version", None, &[(build, 1.0)])?;
        let mut members = Vec::new();
        for (word, state) in [
            ("alive", Liveness::Up),
            ("suspect", Liveness::Suspect),
            ("dead", Liveness::Down),
            ("left", Liveness::Left),
        ] {
            let count = view.nodes.iter().filter(|node| node.state == state).count();
            members.push((vec![("state", word.to_owned())], count as f64));
        }
        let draining = view.nodes.iter().filter(|node| node.draining).count();
        members.push((vec![("state", "draining".to_owned())], draining as f64));
        out.gauges("members", "Members of the mesh as this node sees them", None, &members)?;
        let rtts: Vec<_> = view
            .nodes
            .iter()
            .filter_map(|node| Some((vec![("peer", node.name.clone())], node.rtt_ms? / 1000.0)))
            .collect();
        out.gauges("peer_rtt", "Round trip of the link", Some(&Unit::Seconds), &rtts)?;
        let mut states = Vec::new();
        for (word, state) in [
            ("live", EncoderState::Live),
            ("idle", EncoderState::Idle),
            ("no_signal", EncoderState::NoSignal),
            ("lost", EncoderState::Lost),
        ] {
            let count = view.encoders.iter().filter(|encoder| encoder.state == state).count();
            states.push((vec![("state", word.to_owned())], count as f64));
        }
        out.gauges("encoders", "Encoders of the mesh as this node sees them", None, &states)?;
        if view.encoders.len() <= MAX_ENCODER_SERIES {
            let rights = self.backend.rights();
            let own = view.encoders.iter().filter(|encoder| encoder.home == Some(view.node));
            let up: Vec<_> = own
                .map(|encoder| {
                    let up = matches!(encoder.state, EncoderState::Live | EncoderState::Idle);
                    let of = rights.domain_of(encoder.id);
                    let of = of.and_then(|domain| rights.domain_name(domain)).unwrap_or_default();
                    let domain = ("domain", of.to_owned());
                    (vec![domain, ("encoder", encoder.name.clone())], f64::from(u8::from(up)))
                })
                .collect();
            out.gauges("encoder_up", "Encoders at home here that can send", None, &up)?;
        }
        let snapshot = self.backend.metrics();
        let offsets: Vec<_> = view
            .nodes
            .iter()
            .filter(|node| node.state == Liveness::Up)
            .filter(|node| node.node != view.node)
            .filter_map(|node| {
                // Those of the view are ahead of the mesh's.
                let offset = node.clock_offset_ms? - snapshot.clock_skew_ms;
                Some((vec![("peer", node.name.clone())], offset as f64 / 1000.0))
            })
            .collect();
        let help = "How far a member's clock is ahead of this node's";
        out.gauges("peer_clock_offset", help, Some(&Unit::Seconds), &offsets)?;
        let skew = [(Vec::new(), snapshot.clock_skew_ms as f64 / 1000.0)];
        let help = "How far this node's clock is ahead of the mesh's";
        out.gauges("clock_skew", help, Some(&Unit::Seconds), &skew)?;
        if let Some(it) = &view.survivability {
            let help = "How many nodes can be lost at once with every encoder still placed";
            out.gauges("survivable_losses", help, None, &[(Vec::new(), it.losses.into())])?;
        }
        let outcasts = [(Vec::new(), view.outcasts.len() as f64)];
        out.gauges("outcasts", "Nodes that are members no more", None, &outcasts)?;
        let viewers: Vec<_> = snapshot
            .viewers
            .iter()
            .map(|(protocol, count)| (vec![("protocol", (*protocol).to_owned())], *count as f64))
            .collect();
        out.gauges("viewers", "Viewers served by this node", None, &viewers)?;
        if let Some(bytes) = snapshot.store_bytes {
            let samples = [(Vec::new(), bytes as f64)];
            out.gauges("store_size", "The store on disk", Some(&Unit::Bytes), &samples)?;
        }
        self.own_counters(&mut out)?;
        let mut rest = snapshot.counters;
        rest.sort_by(|a, b| a.name.cmp(b.name));
        for family in rest.chunk_by(|a, b| a.name == b.name) {
            let samples: Vec<_> = family.iter().map(|s| (s.labels.clone(), s.value)).collect();
            if let Some(first) = family.first() {
                out.counters(first.name, first.help, &samples)?;
            }
        }
        Ok(())
    }
}

impl NodeCollector {
    fn own_counters(&self, out: &mut Out<'_>) -> fmt::Result {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let webrtc = self.backend.webrtc();
        let legs = [(Vec::new(), webrtc.legs() as f64)];
        out.gauges("webrtc_sessions", "WebRTC sessions, silent ones included", None, &legs)?;
        let c = webrtc.counters();
        let labelled = |label: &'static str, samples: &[(&str, &AtomicU64)]| -> Vec<_> {
            let one = |(value, counter): &(&str, &AtomicU64)| {
                (vec![(label, (*value).to_owned())], read(counter))
            };
            samples.iter().map(one).collect()
        };
        let offers = labelled(
            "result",
            &[
                ("accepted", &c.accepted),
                ("refused", &c.refused),
                ("full", &c.full),
                ("leaving", &c.leaving),
                ("forbidden", &c.forbidden),
            ],
        );
        out.counters("webrtc_offers", "Offers by what became of them", &offers)?;
        let dropped = labelled(
            "reason",
            &[
                ("stray", &c.stray),
                ("inbox_full", &c.inbox_full),
                ("malformed", &c.malformed),
                ("send_failed", &c.send_failed),
            ],
        );
        out.counters("webrtc_datagrams_dropped", "WebRTC datagrams not handled", &dropped)?;
        for (name, help, counter) in [
            ("webrtc_datagrams_sent", "WebRTC datagrams sent", &c.datagrams_out),
            ("webrtc_sent_bytes", "WebRTC bytes sent", &c.bytes_out),
            ("webrtc_dismissed", "Sessions ended for want of a right", &c.dismissed),
            ("webrtc_packets_received", "Packets of publishers", &c.packets_in),
            ("webrtc_not_established", "Sessions that never connected", &c.not_established),
            ("webrtc_events_dropped", "Events of sessions nobody took", &c.events_dropped),
        ] {
            out.counters(name, help, &[(Vec::new(), read(counter))])?;
        }
        let logins = self.logins.rows();
        let logins: Vec<_> =
            logins.iter().map(|(of, n)| (vec![("result", (*of).to_owned())], *n)).collect();
        out.counters("logins", "Logins by what became of them", &logins)?;
        let s = &self.counters;
        out.counters("http_connections", "TCP connections", &[(Vec::new(), read(&s.connections))])?;
        let refused = labelled(
            "reason",
            &[
                ("over_limit", &s.over_limit),
                ("no_handshake", &s.no_handshake),
                ("clear_text", &s.clear_text),
                ("socket_peer", &s.socket_peer),
            ],
        );
        out.counters("http_refused", "TCP connections and requests refused", &refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_keep_their_suffix_in_the_classic_format() {
        let open = "# HELP a_b Words with spaces.\n# TYPE a_b counter\na_b_total{x=\"1\"} 3\n\
                    # UNIT c seconds\n# TYPE c gauge\nc 1.0\n# EOF\n";
        let classic = classic(open);
        assert_eq!(
            classic,
            "# HELP a_b_total Words with spaces.\n# TYPE a_b_total counter\n\
             a_b_total{x=\"1\"} 3\n# TYPE c gauge\nc 1.0\n"
        );
    }
}
