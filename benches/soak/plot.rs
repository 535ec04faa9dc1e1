//! The run as an SVG that needs nothing else: memory above, latency below.

use std::fmt::Write;

use super::series::{Point, Series};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 880.0;
const HEIGHT: f64 = 220.0;

/// A panel: its top, title, and lines by name and colour.
struct Panel<'a> {
    top: f64,
    title: &'a str,
    lines: Vec<Line<'a>>,
}

struct Line<'a> {
    name: &'a str,
    colour: &'a str,
    /// Against thousands of requests.
    values: Vec<(f64, f64)>,
}

pub(crate) fn svg(series: &Series, summary: &str) -> String {
    let line = |name, colour, value: &dyn Fn(&Point) -> Option<f64>| {
        let values =
            series.points.iter().filter_map(|point| Some((point.requests as f64 / 1e3, value(point)?)));
        Line { name, colour, values: values.collect() }
    };
    let mib = |bytes: f64| Some(bytes / f64::from(1 << 20));
    let panels = [
        Panel {
            top: 80.0,
            title: "memory, MiB",
            lines: vec![
                line("resident", "#1f6f8b", &|point| mib(point.resident_bytes as f64)),
                line("MLX, in use", "#d1495b", &|point| mib(point.mlx_active_bytes as f64)),
                line("MLX, kept for reuse", "#edae49", &|point| mib(point.mlx_cached_bytes as f64)),
            ],
        },
        Panel {
            top: 360.0,
            title: "latency of one short text among 16 threads, ms",
            lines: vec![
                line("P99", "#d1495b", &|point| point.latency_ms[2]),
                line("P95", "#edae49", &|point| point.latency_ms[1]),
                line("P50", "#1f6f8b", &|point| point.latency_ms[0]),
            ],
        },
    ];
    let last = series.points.last().map_or(1.0, |point| (point.requests as f64 / 1e3).max(1e-3));
    let mut out = String::new();
    // Writing to a string can't fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} 640\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"640\" fill=\"white\"/>\n"
    );
    for (index, line) in summary.lines().enumerate() {
        let y = 22 + 18 * index;
        let _ = writeln!(out, "<text x=\"12\" y=\"{y}\">{line}</text>");
    }
    for panel in &panels {
        panel.draw(last, &mut out);
    }
    out + "</svg>\n"
}

impl Panel<'_> {
    fn draw(&self, last: f64, out: &mut String) {
        let values = || self.lines.iter().flat_map(|line| line.values.iter().map(|value| value.1));
        let largest = values().fold(0.0, f64::max);
        let step = round_step(largest);
        let high = step * (largest / step).ceil().max(1.0);
        let x = |thousands: f64| LEFT + (RIGHT - LEFT) * thousands / last;
        let y = |value: f64| self.top + HEIGHT * (1.0 - value / high);
        let _ = writeln!(
            out,
            "<text x=\"12\" y=\"{}\" font-weight=\"bold\">{}</text>",
            self.top - 10.0,
            self.title
        );
        let mut tick = 0.0;
        while tick <= high + step / 2.0 {
            let at = y(tick);
            let _ = writeln!(
                out,
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
                LEFT - 6.0,
                at + 4.0
            );
            tick += step;
        }
        let step = round_step(last);
        let mut tick = 0.0;
        while tick <= last {
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}k</text>",
                x(tick),
                self.top + HEIGHT + 18.0
            );
            tick += step;
        }
        let _ = writeln!(
            out,
            "<text x=\"{RIGHT}\" y=\"{}\" text-anchor=\"end\">requests</text>",
            self.top + HEIGHT + 34.0
        );
        for (index, line) in self.lines.iter().enumerate() {
            let points: Vec<String> =
                line.values.iter().map(|&(at, value)| format!("{:.1},{:.1}", x(at), y(value))).collect();
            let from_right = RIGHT - 140.0 * (self.lines.len() - index) as f64;
            let _ = writeln!(
                out,
                "<polyline fill=\"none\" stroke=\"{0}\" stroke-width=\"1.3\" points=\"{1}\"/>\
                 <rect x=\"{from_right}\" y=\"{2}\" width=\"14\" height=\"4\" fill=\"{0}\"/>\
                 <text x=\"{3}\" y=\"{4}\">{5}</text>",
                line.colour,
                points.join(" "),
                self.top - 15.0,
                from_right + 20.0,
                self.top - 9.0,
                line.name
            );
        }
    }
}

/// 1, 2 or 5 times a power of ten, about a fifth of the range.
fn round_step(range: f64) -> f64 {
    let rough = (range / 5.0).max(1e-6);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0].into_iter().find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}
