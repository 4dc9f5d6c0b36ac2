//! A run as a picture: time to the right, a lane for each process. Where nothing happens time
//! passes quickly, so that a failover of 200 ms in a run of a minute can be seen.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::explain::{Failover, source_name, span_text, watcher_name, words};
use crate::net::SEC;
use crate::plan::Fault;
use crate::story::{State, Story, Weight};
use crate::world::World;

mod legend;
mod scale;

use scale::{CALM, Scale};

/// Left of the lanes: their names.
const LEFT: f64 = 96.0;
const RIGHT: f64 = 28.0;
/// The drawing's width without its margins.
const WIDTH: (f64, f64) = (1040.0, 2600.0);
/// From one lane's middle to the next, and the height of what is in it.
const LANE: f64 = 34.0;
const BAR: f64 = 15.0;
const GROUP: f64 = 14.0;
/// Colours of encoders.
const COLOURS: usize = 6;

/// Light and dark.
const STYLE: &str = include_str!("svg/style.css");

struct Drawing<'a> {
    world: &'a World,
    story: &'a Story,
    scale: Scale,
    /// The middle of each host's lane, of each publisher's and of each watcher's.
    hosts: Vec<f64>,
    publishers: Vec<f64>,
    watchers: Vec<f64>,
    out: String,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn moments(world: &World, story: &Story) -> BTreeSet<u64> {
    let mut set = BTreeSet::new();
    for past in &story.hosts {
        set.extend(past.spans.iter().flat_map(|span| [span.from, span.to]));
    }
    for past in story.homes.iter().chain(&story.legs).chain(&story.via) {
        set.extend(past.spans.iter().flat_map(|span| [span.from, span.to]));
    }
    for past in story.claims.values() {
        set.extend(past.spans.iter().flat_map(|span| [span.from, span.to]));
    }
    set.extend(story.gaps.iter().flat_map(|(_, span)| [span.from, span.to]));
    set.extend(story.verdicts.iter().map(|verdict| verdict.at));
    set.extend(
        story.faults.values().flat_map(|fault| [fault.from, fault.to.unwrap_or(fault.from)]),
    );
    for said in story.said.iter().filter(|said| said.weight == Weight::Decides) {
        set.extend([said.sent, said.read]);
    }
    set.extend(world.violation.as_ref().map(|violation| violation.at));
    set
}

/// Draws a run.
pub(crate) fn draw(world: &World, story: &Story, failovers: &[Failover]) -> String {
    let first_fault = story.faults.values().map(|fault| fault.from).min().unwrap_or(u64::MAX);
    let scale = Scale::new(moments(world, story), first_fault, world.now.max(1));
    let mut drawing = Drawing {
        world,
        story,
        scale,
        hosts: vec![0.0; world.hosts.len()],
        publishers: Vec::new(),
        watchers: Vec::new(),
        out: String::new(),
    };
    let strips = drawing.strips();
    let rows = strips.iter().map(|(row, ..)| row + 1).max().unwrap_or(0);
    let top = 66.0 + rows as f64 * 20.0;
    let axis = top + 16.0;
    let bottom = drawing.place_lanes(axis + 16.0);
    drawing.bands(&strips, 62.0, bottom);
    drawing.axis(axis, bottom);
    drawing.lanes();
    drawing.messages();
    drawing.moves(failovers);
    drawing.marks(axis, bottom);
    let height = drawing.legend(bottom + 34.0, failovers) + 20.0;
    let (width, plan) = (drawing.scale.right() + RIGHT, &world.plan);
    let ended = match &world.violation {
        Some(violation) => format!("FAILED: {violation}"),
        None => "every promise held".to_owned(),
    };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\"><title>{name}</title>\
         <style>{STYLE}</style><defs>\
         <pattern id=\"ice\" width=\"7\" height=\"7\" patternUnits=\"userSpaceOnUse\" \
         patternTransform=\"rotate(45)\"><rect width=\"7\" height=\"7\" fill=\"var(--icefill)\"/>\
         <rect width=\"2.5\" height=\"7\" fill=\"var(--ice)\" opacity=\".55\"/></pattern>\
         <pattern id=\"calm\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\">\
         <circle cx=\"1\" cy=\"1\" r=\".8\" fill=\"var(--rule)\"/></pattern>{arrows}</defs>\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--bg)\"/>\
         <text class=\"h\" x=\"16\" y=\"28\">{name}</text>\
         <text class=\"s\" x=\"16\" y=\"48\">{nodes} nodes, {encoders} encoders, {viewers} viewers, \
         {pages} pages, {publishers} publishers, {seconds:.0} s \u{2014} {ended}</text>{body}</svg>\n",
        name = escaped(&plan.name),
        arrows = arrows(),
        nodes = plan.nodes,
        encoders = plan.encoders,
        viewers = plan.viewers,
        pages = world.browsers.len(),
        publishers = plan.publishers,
        seconds = world.now as f64 / 1e9,
        ended = escaped(&ended),
        body = drawing.out,
    )
}

fn arrows() -> String {
    let colours = (0..COLOURS).map(|c| format!("c{c}")).chain(["dim".to_owned()]);
    colours.fold(String::new(), |mut out, colour| {
        let _ = write!(
            out,
            "<marker id=\"a-{colour}\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"5\" \
             markerHeight=\"5\" markerUnits=\"userSpaceOnUse\" orient=\"auto-start-reverse\">\
             <path d=\"M0 0L8 4L0 8z\" fill=\"var(--{colour})\"/></marker>"
        );
        out
    })
}

fn colour(encoder: usize) -> String {
    format!("var(--c{})", encoder % COLOURS)
}

/// About how wide a text of 10.5 pixels is.
fn wide(text: &str) -> f64 {
    text.chars().count() as f64 * 6.1
}

impl Drawing<'_> {
    fn put(&mut self, text: &str) {
        self.out.push_str(text);
    }

    fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        let _ = write!(
            self.out,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    fn bar(&mut self, attributes: &str, (from, to): (u64, u64), y: f64, height: f64, title: &str) {
        let (x, right) = (self.scale.x(from), self.scale.x(to));
        let (width, title) = ((right - x).max(1.5), escaped(title));
        let _ = write!(
            self.out,
            "<rect {attributes} x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" rx=\"2.5\"><title>{title}</title></rect>",
            y - height / 2.0
        );
    }

    /// Encoders above, then publishers, nodes in the middle, who watches below; second agents last of the
    /// first.
    fn place_lanes(&mut self, top: f64) -> f64 {
        let plan = &self.world.plan;
        let mut y = top + LANE / 2.0;
        let mut place = |gap: f64| {
            let at = y + gap;
            y = at + LANE;
            at
        };
        for agent in 0..self.world.encoders.len() {
            self.hosts[self.world.host_of_encoder(agent)] = place(0.0);
        }
        for _ in 0..plan.publishers {
            self.publishers.push(place(0.0));
        }
        for node in 0..plan.nodes {
            self.hosts[node] = place(if node == 0 { GROUP } else { 0.0 });
        }
        for viewer in 0..plan.viewers {
            let at = place(if viewer == 0 { GROUP } else { 0.0 });
            self.hosts[self.world.host_of_viewer(viewer)] = at;
            self.watchers.push(at);
        }
        for _ in &self.world.browsers {
            self.watchers.push(place(0.0));
        }
        y - LANE / 2.0
    }

    /// Faults in rows: row, index, text.
    fn strips(&self) -> Vec<(usize, usize, String)> {
        let mut rows: Vec<f64> = Vec::new();
        let mut strips = Vec::new();
        let mut faults: Vec<_> = self.story.faults.iter().collect();
        faults.sort_by_key(|(index, fault)| (fault.from, **index));
        for (&index, fault) in faults {
            let text = words(self.world, fault);
            let x = self.scale.x(fault.from);
            let right =
                self.scale.x(fault.to.unwrap_or(self.world.now)).max(x + wide(&text) + 14.0);
            let row = rows.iter().position(|end| *end < x).unwrap_or(rows.len());
            if row == rows.len() {
                rows.push(0.0);
            }
            rows[row] = right + 4.0;
            strips.push((row, index, text));
        }
        strips
    }

    fn bands(&mut self, strips: &[(usize, usize, String)], top: f64, bottom: f64) {
        let story = self.story;
        for (row, index, text) in strips {
            let Some(fault) = story.faults.get(index) else { continue };
            let kind = match fault.fault {
                Fault::Crash(_)
                | Fault::OldFolder(_)
                | Fault::OldBackup(_)
                | Fault::Unreadable(_)
                | Fault::DiskFull(_)
                | Fault::Leave(_)
                | Fault::Twin(_) => "bad",
                Fault::Freeze(_) => "ice",
                Fault::Cut { .. } => "cut",
                _ => "net",
            };
            let x = self.scale.x(fault.from);
            let until = fault.to.unwrap_or(self.world.now);
            let width = (self.scale.x(until) - x).max(3.0);
            let y = top + *row as f64 * 20.0;
            let title = escaped(&format!(
                "{text}, {:.3} s to {:.3} s",
                fault.from as f64 / 1e9,
                until as f64 / 1e9
            ));
            let _ = write!(
                self.out,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"16\" rx=\"3\" \
                 fill=\"var(--{kind}fill)\" stroke=\"var(--{kind})\"><title>{title}</title></rect>\
                 <line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\" \
                 stroke=\"var(--{kind})\" stroke-dasharray=\"3 3\" opacity=\".6\"/>",
                y + 16.0
            );
            let label = escaped(text);
            let _ = write!(
                self.out,
                "<text class=\"fb\" x=\"{:.1}\" y=\"{:.1}\" paint-order=\"stroke\" \
                 stroke=\"var(--{kind}fill)\" stroke-width=\"3\">{label}</text>",
                x + 5.0,
                y + 12.0
            );
            let all = fault.hosts.len() == self.world.hosts.len();
            let lanes: Vec<f64> = if all {
                self.hosts.iter().chain(&self.watchers).copied().collect()
            } else {
                fault.hosts.iter().filter_map(|host| self.hosts.get(*host).copied()).collect()
            };
            for lane in lanes {
                let _ = write!(
                    self.out,
                    "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
                     fill=\"var(--{kind}fill)\" opacity=\"{}\"/>",
                    lane - LANE / 2.0 + 1.0,
                    LANE - 2.0,
                    if kind == "net" { ".45" } else { ".8" }
                );
            }
        }
    }

    fn axis(&mut self, y: f64, bottom: f64) {
        for (at, x) in self.scale.ticks(self.world.now) {
            let _ = write!(
                self.out,
                "<line class=\"rule\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{bottom:.1}\"/>",
                y + 5.0
            );
            let seconds = at as f64 / 1e9;
            let text =
                if at % SEC == 0 { format!("{seconds:.0} s") } else { format!("{seconds:.2}") };
            self.text("t", x, y, "middle", &text);
        }
        let calm: Vec<_> = self.scale.at.windows(2).filter(|p| p[1].0 - p[0].0 > CALM).collect();
        let calm: Vec<(f64, f64)> = calm.into_iter().map(|p| (p[0].1, p[1].1)).collect();
        for (from, to) in calm {
            let _ = write!(
                self.out,
                "<rect class=\"calm\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\"/>",
                y + 6.0,
                to - from,
                bottom - y - 6.0
            );
        }
    }

    fn lanes(&mut self) {
        let (world, story) = (self.world, self.story);
        let plan = &world.plan;
        let mut stood = Vec::new();
        for (host, past) in story.hosts.iter().enumerate() {
            let y = self.hosts[host];
            let name = world.host_name(host);
            self.text("n", LEFT - 12.0, y + 4.0, "end", &name);
            let thin = if host < plan.nodes { BAR } else { BAR - 4.0 };
            for span in &past.spans {
                let (class, word) = match span.what {
                    State::Runs => ("up", "runs"),
                    State::Frozen => ("ice", "stands still"),
                };
                let title = format!("{name} {word}");
                self.bar(&format!("class=\"{class}\""), (span.from, span.to), y, thin, &title);
            }
            let frozen: Vec<_> = past.spans.iter().filter(|s| s.what == State::Frozen).collect();
            frozen.iter().for_each(|span| stood.push((host, span.from, span.to)));
            let ends: Vec<u64> = past.spans.iter().map(|span| span.to).collect();
            for end in ends.into_iter().filter(|end| *end < world.now) {
                if past.spans.iter().any(|span| span.from == end) {
                    continue;
                }
                let x = self.scale.x(end);
                let _ = write!(
                    self.out,
                    "<path class=\"dead\" d=\"M{:.1} {:.1}l8 8m0 -8l-8 8\"/>",
                    x - 4.0,
                    y - 4.0
                );
            }
        }
        for (&(node, e), past) in &story.claims {
            let (y, height) = self.stripe(node, e);
            let fill = format!("fill=\"{}\"", colour(e));
            for span in &past.spans {
                let title = format!("n{node} is home of {}", source_name(world, e));
                self.bar(&fill, (span.from, span.to), y, height, &title);
            }
        }
        for (e, past) in story.nexts.iter().enumerate() {
            for span in &past.spans {
                let (y, _) = self.stripe(span.what, e);
                let (x, right) = (self.scale.x(span.from), self.scale.x(span.to));
                let _ = write!(
                    self.out,
                    "<line class=\"next\" stroke=\"{}\" x1=\"{x:.1}\" x2=\"{right:.1}\" \
                     y1=\"{y:.1}\" y2=\"{y:.1}\"><title>n{} is next of cam{e}</title></line>",
                    colour(e),
                    span.what
                );
            }
        }
        for (e, past) in story.homes.iter().enumerate() {
            let y = self.hosts[world.host_of_encoder(e)];
            let fill = format!("fill=\"{}\"", colour(e));
            for span in &past.spans {
                let text = format!("home n{}", span.what);
                self.bar(&fill, (span.from, span.to), y, BAR, &format!("cam{e}: {text}"));
                self.label((span.from, span.to), y, &text);
            }
        }
        for p in 0..self.publishers.len() {
            self.publisher(p);
        }
        for w in 0..self.watchers.len() {
            self.watcher(w);
        }
        // Above what a process holds: it holds it standing still.
        for (host, from, to) in stood {
            let title = format!("{} stands still", world.host_name(host));
            self.bar(
                "class=\"ice\" opacity=\".72\"",
                (from, to),
                self.hosts[host],
                BAR + 6.0,
                &title,
            );
        }
    }

    /// A stripe of a node's bar belongs to each encoder.
    fn stripe(&self, node: usize, encoder: usize) -> (f64, f64) {
        let count = (self.world.plan.encoders + self.world.plan.publishers).max(1) as f64;
        let height = (BAR / count).max(2.0);
        (self.hosts[node] - BAR / 2.0 + height * (encoder as f64 + 0.5), height)
    }

    fn label(&mut self, (from, to): (u64, u64), y: f64, text: &str) {
        let (x, right) = (self.scale.x(from), self.scale.x(to));
        if right - x > wide(text) + 10.0 {
            self.text("in", x + 5.0, y + 4.0, "start", text);
        }
    }

    fn publisher(&mut self, p: usize) {
        let (story, y, source) = (self.story, self.publishers[p], self.world.plan.encoders + p);
        let name = source_name(self.world, source);
        self.text("n", LEFT - 12.0, y + 4.0, "end", &name);
        let fill = format!("fill=\"{}\"", colour(source));
        for span in story.legs.get(p).into_iter().flat_map(|past| &past.spans) {
            let text = format!("sends to n{}", span.what);
            self.bar(&fill, (span.from, span.to), y, BAR, &format!("{name} {text}"));
            self.label((span.from, span.to), y, &text);
        }
    }

    fn watcher(&mut self, w: usize) {
        let (world, story, y) = (self.world, self.story, self.watchers[w]);
        let (watches, page) = match w.checked_sub(world.plan.viewers) {
            None => (world.viewers[w].watches, false),
            Some(page) => (world.browsers[page].watches, true),
        };
        let name = watcher_name(world, w);
        if page {
            self.text("n", LEFT - 12.0, y + 4.0, "end", &name);
        }
        let fill = format!("fill=\"{}\" opacity=\".8\"", colour(watches));
        let spans = story.via.get(w).map(|past| past.spans.clone()).unwrap_or_default();
        for span in spans {
            let text = format!("from n{}", span.what);
            self.bar(&fill, (span.from, span.to), y, BAR - 2.0, &format!("{name} {text}"));
            self.label((span.from, span.to), y, &text);
        }
        let gaps: Vec<_> = story.gaps.iter().filter(|(of, _)| *of == w).map(|(_, s)| *s).collect();
        for gap in gaps {
            let text = span_text(gap.to - gap.from);
            let title = format!("{name} sees nothing new for {text}");
            self.bar("class=\"gap\"", (gap.from, gap.to), y, BAR + 3.0, &title);
            let middle = f64::midpoint(self.scale.x(gap.from), self.scale.x(gap.to));
            if self.scale.x(gap.to) - self.scale.x(gap.from) > wide(&text) + 2.0 {
                self.text("g", middle, y + 4.0, "middle", &text);
            } else {
                self.text("g", middle, y + BAR + 6.0, "middle", &text);
            }
        }
    }

    fn messages(&mut self) {
        let (world, story) = (self.world, self.story);
        let first = story.faults.values().map(|fault| fault.from).min().unwrap_or(0);
        let mut drawn = std::collections::BTreeMap::new();
        for said in &story.said {
            if said.read > world.now || (said.sent < first && said.weight != Weight::Decides) {
                continue;
            }
            let (from, to) = (self.hosts[said.from], self.hosts[said.to]);
            // Who asks again and again is drawn asking now and then.
            let x = self.scale.x(said.sent);
            let again = drawn.insert((said.from, said.to), x).filter(|last| x < last + 7.0);
            if let (Some(last), true) = (again, said.weight != Weight::Decides) {
                drawn.insert((said.from, said.to), last);
                continue;
            }
            let sign = if to > from { 1.0 } else { -1.0 };
            let (y1, y2) = (from + sign * BAR / 2.0, to - sign * BAR / 2.0);
            let (x1, x2) = (self.scale.x(said.sent), self.scale.x(said.read));
            let (class, stroke, arrow) = match (said.weight, said.encoder) {
                (Weight::Decides, Some(e)) => {
                    ("m", format!(" stroke=\"{}\"", colour(e)), format!("c{}", e % COLOURS))
                }
                (Weight::News, _) => ("m news", String::new(), "dim".into()),
                _ => ("m talk", String::new(), "dim".into()),
            };
            let title = escaped(&format!(
                "{:.3} s, {} to {}: {}",
                said.sent as f64 / 1e9,
                world.host_name(said.from),
                world.host_name(said.to),
                said.text
            ));
            let _ = write!(
                self.out,
                "<path class=\"{class}\"{stroke} marker-end=\"url(#a-{arrow})\" \
                 d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"><title>{title}</title></path>"
            );
        }
        let mut told: Vec<(u64, usize)> = Vec::new();
        for verdict in &story.verdicts {
            let (x, y) = (self.scale.x(verdict.at), self.hosts[verdict.observer] - BAR / 2.0);
            let judged = verdict.judged;
            let title = format!("n{} calls n{judged} down", verdict.observer);
            let _ = write!(
                self.out,
                "<path class=\"v\" d=\"M{:.1} {:.1}h8l-4 7z\"><title>{title}</title></path>",
                x - 4.0,
                y - 7.0
            );
            if !told.iter().any(|(at, of)| *of == judged && verdict.at < at + 10 * SEC) {
                self.text("g", x + 6.0, y - 1.0, "start", &format!("n{judged} down"));
                told.push((verdict.at, judged));
            }
        }
    }

    /// Failovers: from the old home to the new one, numbered.
    fn moves(&mut self, failovers: &[Failover]) {
        for (number, failover) in failovers.iter().enumerate() {
            let (x1, x2) = (self.scale.x(failover.from.0), self.scale.x(failover.to.0));
            let (y1, _) = self.stripe(failover.from.1, failover.encoder);
            let (y2, _) = self.stripe(failover.to.1, failover.encoder);
            let bend = (x2 - x1) * 0.6;
            let paint = colour(failover.encoder);
            let title = escaped(&failover.text);
            let _ = write!(
                self.out,
                "<path class=\"f halo\" d=\"M{x1:.1} {y1:.1}C{:.1} {y1:.1} {:.1} {y2:.1} {x2:.1} \
                 {y2:.1}\"/><path class=\"f\" stroke=\"{paint}\" d=\"M{x1:.1} {y1:.1}C{:.1} {y1:.1} {:.1} \
                 {y2:.1} {x2:.1} {y2:.1}\"><title>{title}</title></path>",
                x1 + bend,
                x2 - bend,
                x1 + bend,
                x2 - bend
            );
            let (x, y) = (f64::midpoint(x1, x2), f64::midpoint(y1, y2));
            self.number(number + 1, x, y, &paint);
        }
    }

    fn number(&mut self, number: usize, x: f64, y: f64, paint: &str) {
        let _ = write!(
            self.out,
            "<circle class=\"chip\" stroke=\"{paint}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"9\"/>"
        );
        self.text("fb", x, y + 4.0, "middle", &number.to_string());
    }

    fn marks(&mut self, top: f64, bottom: f64) {
        let Some(violation) = &self.world.violation else { return };
        let x = self.scale.x(violation.at) - 1.0;
        let _ = write!(
            self.out,
            "<line class=\"end\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\"/>"
        );
    }
}
