//! Plots, as SVG that can be read on a light page and on a dark one: mid-tones on no background, and lines that differ in
//! their dashes as well as in their colours.

use std::fmt::Write as _;

use super::stack::Kind;

/// Plots side by side, with one legend.
pub(super) struct Figure {
    pub(super) title: &'static str,
    pub(super) panels: Vec<Panel>,
}

/// One plot.
pub(super) struct Panel {
    pub(super) title: &'static str,
    pub(super) x_title: &'static str,
    /// Where something is wrong.
    pub(super) wrong: Option<(f64, f64)>,
    pub(super) lines: Vec<Line>,
}

/// What one stack did.
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 250.0;
const PLOT_WIDTH: f64 = 310.0;
const PLOT_HEIGHT: f64 = 130.0;
const PLOT_TOP: f64 = 74.0;
const INK: &str = "#7d7d7d";

impl Figure {
    pub(super) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\" \
             font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"{INK}\">\n<title>{title}</title>\n",
            title = self.title,
        );
        text(&mut svg, (8.0, 18.0), "start", self.title, " font-size=\"14\" font-weight=\"600\"");
        for (at, kind) in Kind::ALL.into_iter().enumerate() {
            let x = 430.0 + 110.0 * at as f64;
            let _ = writeln!(svg, "<path d=\"M{x} 14h24\" {}/>", stroke(kind));
            text(&mut svg, (x + 30.0, 18.0), "start", kind.name(), "");
        }
        for (at, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut svg, 48.0 + 380.0 * at as f64);
        }
        svg.push_str("</svg>\n");
        svg
    }
}

impl Panel {
    fn draw(&self, svg: &mut String, left: f64) {
        let points = || self.lines.iter().flat_map(|line| line.points.iter());
        let x_max = points().map(|(x, _)| *x).fold(0.0, f64::max);
        let x_min = points().map(|(x, _)| *x).fold(x_max, f64::min);
        let y_step = step(points().map(|(_, y)| *y).fold(0.0, f64::max));
        let y_max = y_step * (points().map(|(_, y)| *y).fold(0.0, f64::max) / y_step).ceil().max(1.0);
        let at = |x: f64, y: f64| {
            let across = (x - x_min) / (x_max - x_min).max(f64::MIN_POSITIVE);
            (left + across * PLOT_WIDTH, PLOT_TOP + (1.0 - y / y_max) * PLOT_HEIGHT)
        };
        text(svg, (left, PLOT_TOP - 12.0), "start", self.title, " font-weight=\"600\"");
        if let Some((from, to)) = self.wrong {
            let (from, to) = (at(from, 0.0).0, at(to, 0.0).0);
            let _ = writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{PLOT_TOP}\" width=\"{:.1}\" height=\"{PLOT_HEIGHT}\" fill=\"{INK}\" opacity=\"0.15\"/>",
                to - from
            );
        }
        for tick in 0..=(y_max / y_step).round() as u32 {
            let value = f64::from(tick) * y_step;
            let (_, y) = at(x_min, value);
            let _ = writeln!(svg, "<path d=\"M{left} {y:.1}h{PLOT_WIDTH}\" stroke=\"{INK}\" stroke-opacity=\"0.3\"/>");
            text(svg, (left - 6.0, y + 4.0), "end", &number(value), "");
        }
        let x_step = step(x_max - x_min);
        let mut value = (x_min / x_step).ceil() * x_step;
        while value <= x_max + 1e-9 {
            text(svg, (at(value, 0.0).0, PLOT_TOP + PLOT_HEIGHT + 16.0), "middle", &number(value), "");
            value += x_step;
        }
        text(svg, (left + PLOT_WIDTH, PLOT_TOP + PLOT_HEIGHT + 32.0), "end", self.x_title, "");
        for line in &self.lines {
            let place = |(x, y): &(f64, f64)| at(*x, *y);
            let path = line.points.iter().map(place).map(|(x, y)| format!("{x:.1} {y:.1}")).collect::<Vec<_>>();
            let _ = writeln!(svg, "<path d=\"M{}\" {}/>", path.join("L"), stroke(line.kind));
        }
    }
}

fn stroke(kind: Kind) -> &'static str {
    match kind {
        Kind::Nothing => {
            "fill=\"none\" stroke=\"#8a8a8a\" stroke-width=\"2\" stroke-dasharray=\"2 4\" stroke-linecap=\"round\""
        }
        Kind::PlainRetry => "fill=\"none\" stroke=\"#d9730d\" stroke-width=\"1.8\" stroke-dasharray=\"7 3\"",
        Kind::Semel => "fill=\"none\" stroke=\"#2f86e0\" stroke-width=\"2.2\" stroke-linejoin=\"round\"",
    }
}

fn text(svg: &mut String, (x, y): (f64, f64), anchor: &str, text: &str, more: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{more}>{text}</text>");
}

/// A round step of which about four make up `range`.
fn step(range: f64) -> f64 {
    let rough = (range / 4.0).max(1e-3);
    let power = 10_f64.powf(rough.log10().floor());
    let times = [1.0, 2.0, 5.0, 10.0].into_iter().find(|times| times * power >= rough * 0.999).unwrap_or(10.0);
    times * power
}

fn number(value: f64) -> String {
    if value.fract().abs() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        for (range, expected) in [(3.0, 1.0), (80.0, 20.0), (213.0, 100.0), (0.9, 0.5), (0.0, 0.001)] {
            assert!((step(range) - expected).abs() < 1e-9, "{range}: {}", step(range));
        }
    }

    #[test]
    fn points_stay_inside_whatever_they_are() {
        for points in [vec![(0.0, 0.0), (10.0, 0.0)], vec![(0.0, 7.5), (1.0, 7.5)], vec![(0.0, 1.0), (80.0, 213.0)]] {
            let line = |kind| Line { kind, points: points.clone() };
            let panel =
                || Panel { title: "a", x_title: "b", wrong: Some((0.0, 1.0)), lines: Kind::ALL.map(line).into() };
            let svg = Figure { title: "c", panels: vec![panel(), panel()] }.svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            assert_eq!(svg.matches("stroke=\"#2f86e0\"").count(), 3, "one in the legend and one in each panel");
        }
    }
}
