//! What is told below a drawing.

use super::{Drawing, colour, wide};
use crate::explain::Failover;

impl Drawing<'_> {
    /// What signs mean, and each failover in a sentence. Returns where it ends.
    pub(super) fn legend(&mut self, top: f64, failovers: &[Failover]) -> f64 {
        let mut y = top;
        for (number, failover) in failovers.iter().enumerate() {
            self.number(number + 1, 26.0, y - 4.0, &colour(failover.encoder));
            let text = format!("{:.3} s  {}", failover.to.0 as f64 / 1e9, failover.text);
            self.text("", 44.0, y, "start", &text);
            y += 22.0;
        }
        y += 10.0;
        let signs = [
            ("<rect class=\"up\" y=\"-11\" width=\"26\" height=\"12\" rx=\"2.5\"/>", "runs"),
            (
                "<rect class=\"ice\" y=\"-11\" width=\"26\" height=\"12\" rx=\"2.5\"/>",
                "stands still",
            ),
            ("<path class=\"dead\" d=\"M8 -9l8 8m0 -8l-8 8\"/>", "process ends"),
            (
                "<rect y=\"-11\" width=\"26\" height=\"12\" rx=\"2.5\" fill=\"var(--c0)\"/>",
                "is home (a colour for each encoder and publisher)",
            ),
            (
                "<line class=\"next\" x2=\"26\" y1=\"-5\" y2=\"-5\" stroke=\"var(--c0)\"/>",
                "is next",
            ),
            (
                "<path class=\"f\" d=\"M0 0C16 0 10 -10 26 -10\" stroke=\"var(--c0)\"/>",
                "home moves",
            ),
            (
                "<rect class=\"gap\" y=\"-11\" width=\"26\" height=\"12\" rx=\"2.5\"/>",
                "no new picture for more than 200 ms",
            ),
            ("<path class=\"v\" d=\"M8 -9h9l-4.5 8z\"/>", "calls a node down"),
            (
                "<path class=\"m\" stroke=\"var(--c0)\" d=\"M0 -5H26\" marker-end=\"url(#a-c0)\"/>",
                "decides about home or next",
            ),
            (
                "<path class=\"m talk\" d=\"M0 -5H26\" marker-end=\"url(#a-dim)\"/>",
                "a client and a node talk",
            ),
            (
                "<path class=\"m news\" d=\"M0 -5H26\" marker-end=\"url(#a-dim)\"/>",
                "nodes: where encoders are",
            ),
            (
                "<rect class=\"calm\" y=\"-11\" width=\"26\" height=\"12\" stroke=\"var(--rule)\"/>",
                "more than 2 s of calm, pressed together; time is not to scale",
            ),
        ];
        let right = self.scale.right();
        let mut x = 16.0;
        for (sign, text) in signs {
            let width = 34.0 + wide(text) * 1.12 + 18.0;
            if x + width > right {
                x = 16.0;
                y += 22.0;
            }
            self.put(&format!("<g transform=\"translate({x:.1} {y:.1})\">{sign}</g>"));
            self.text("s", x + 34.0, y, "start", text);
            x += width;
        }
        y
    }
}
