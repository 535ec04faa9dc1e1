//! Plots of a run, as SVG that takes its colours from the page.

use std::fmt::Write;

use mlx_embed::bench::Part;

use super::Shape;
use super::layers::{Line, Measured, Report};

const WIDTH: f64 = 860.0;

/// An axis from numbers to points.
#[derive(Debug, Clone, Copy)]
struct Axis {
    numbers: [f64; 2],
    points: [f64; 2],
    logarithmic: bool,
}

impl Axis {
    /// From the power of ten below the smallest to the one above the largest of `numbers`.
    fn logarithmic(numbers: impl Iterator<Item = f64>, points: [f64; 2]) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for number in numbers.filter(|number| *number > 0.0 && number.is_finite()) {
            (low, high) = (low.min(number), high.max(number));
        }
        if low > high {
            (low, high) = (1.0, 10.0);
        }
        let decade = |number: f64, round: fn(f64) -> f64| 10_f64.powf(round(number.log10()));
        let (low, mut high) = (decade(low, f64::floor), decade(high, f64::ceil));
        if low == high {
            high *= 10.0;
        }
        Self { numbers: [low, high], points, logarithmic: true }
    }

    /// From zero to a round number above `most`.
    fn linear(most: f64, points: [f64; 2]) -> Self {
        let most = if most > 0.0 && most.is_finite() { most } else { 1.0 };
        let step = 10_f64.powf(most.log10().floor());
        let most = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0]
            .into_iter()
            .map(|by| by * step)
            .find(|&top| top >= most);
        Self { numbers: [0.0, most.unwrap_or(10.0 * step)], points, logarithmic: false }
    }

    fn at(&self, number: f64) -> f64 {
        let scale = |number: f64| if self.logarithmic { number.log10() } else { number };
        let [from, to] = self.numbers.map(scale);
        let share = (scale(number) - from) / (to - from);
        self.points[0] + share.clamp(0.0, 1.0) * (self.points[1] - self.points[0])
    }

    fn ticks(&self) -> Vec<f64> {
        let [from, to] = self.numbers;
        if self.logarithmic {
            let decades = (to / from).log10().round() as i32;
            return (0..=decades).map(|decade| from * 10_f64.powi(decade)).collect();
        }
        (0..=4).map(|quarter| to * f64::from(quarter) / 4.0).collect()
    }
}

/// A number in three digits, and without those that are zero at its end.
pub(super) fn short(number: f64) -> String {
    let size = number.abs();
    if size == 0.0 || !number.is_finite() {
        return if number == 0.0 { "0".to_owned() } else { "–".to_owned() };
    }
    let (number, unit) = match size {
        size if size >= 1e6 => (number / 1e6, "M"),
        size if size >= 1e4 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let before_point = number.abs().log10().floor() as i32 + 1;
    let digits = (3 - before_point).clamp(0, 9) as usize;
    let text = format!("{number:.digits$}");
    let text = if digits > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{unit}")
}

/// Text as it may stand in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The colour class of an operation: that of what most of its time goes into.
pub(super) fn class(parts: &[Part]) -> &'static str {
    const CLASSES: [(Part, &str); 12] = [
        (Part::Attention, "attention"),
        (Part::GateUp, "gate-up"),
        (Part::Qkv, "qkv"),
        (Part::Down, "down"),
        (Part::Output, "output"),
        (Part::SwiGlu, "swiglu"),
        (Part::Rope, "rope"),
        (Part::InputNorm, "norm"),
        (Part::PostAttentionNorm, "post-norm"),
        (Part::Gather, "gather"),
        (Part::FinalNorm, "final-norm"),
        (Part::Pooling, "pooling"),
    ];
    CLASSES.iter().find(|(part, _)| parts.contains(part)).map_or("other", |(_, class)| class)
}

/// A drawing that grows.
struct Drawing(String);

impl Drawing {
    fn new(height: f64, label: &str) -> Self {
        Self(format!(
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n",
            escape(label)
        ))
    }

    fn finish(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string can't fail.
        let _ = self.0.write_fmt(element);
        self.0.push('\n');
    }

    fn line(&mut self, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2], class: &str) {
        self.add(format_args!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        ));
    }

    fn text(&mut self, [x, y]: [f64; 2], anchor: &str, class: &str, text: &str) {
        self.add(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{}</text>",
            escape(text)
        ));
    }

    fn axes(&mut self, x: &Axis, y: &Axis, titles: [&str; 2], number: [fn(f64) -> String; 2]) {
        let ([left, right], [bottom, top]) = (x.points, y.points);
        for tick in y.ticks() {
            let at = y.at(tick);
            self.line([left, at], [right, at], "grid");
            self.text([left - 8.0, at + 4.0], "end", "tick", &number[1](tick));
        }
        for tick in x.ticks() {
            let at = x.at(tick);
            self.line([at, bottom], [at, top], "grid");
            self.text([at, bottom + 18.0], "middle", "tick", &number[0](tick));
        }
        self.line([left, bottom], [right, bottom], "axis");
        self.line([left, bottom], [left, top], "axis");
        self.text([(left + right) / 2.0, bottom + 40.0], "middle", "title", titles[0]);
        let (middle, x) = ((bottom + top) / 2.0, left - 52.0);
        self.add(format_args!(
            "<text transform=\"translate({x:.1} {middle:.1}) rotate(-90)\" text-anchor=\"middle\" \
             class=\"title\">{}</text>",
            escape(titles[1])
        ));
    }
}

/// Operations by what they do for each byte and how fast they do it, below the roofs.
pub(super) fn roofline(report: &Report) -> String {
    let height = 500.0;
    let mut drawing = Drawing::new(height, "Roofline");
    let points: Vec<(Shape, &Line, f64, f64)> = report
        .shapes
        .iter()
        .flat_map(|measured| measured.operations.iter().map(|line| (measured.shape, line)))
        .filter_map(|(shape, line)| {
            let rate = line.gflops?;
            Some((shape, line, line.operations / line.bytes, rate))
        })
        .collect();
    let peaks = report.roofline.peaks();
    let bandwidth = report.roofline.gb_per_s;
    let ridges = peaks.iter().map(|(_, peak)| peak / bandwidth * 2.0);
    let x = Axis::logarithmic(points.iter().map(|point| point.2).chain(ridges), [70.0, WIDTH - 110.0]);
    let rates = points.iter().map(|point| point.3).chain(peaks.iter().map(|(_, peak)| *peak));
    let y = Axis::logarithmic(rates, [height - 60.0, 20.0]);
    drawing.axes(&x, &y, ["operations per byte", "GFLOP/s"], [short, short]);

    let mut label_at = f64::INFINITY;
    for (name, peak) in &peaks {
        let ridge = (peak / bandwidth).clamp(x.numbers[0], x.numbers[1]);
        drawing.line([x.at(ridge), y.at(*peak)], [x.points[1], y.at(*peak)], "roof");
        // Roofs may lie close together, their names must not.
        label_at = (y.at(*peak) + 4.0).min(label_at - 15.0);
        drawing.text([x.points[1] + 8.0, label_at], "start", "label", &format!("{name} {}", short(*peak)));
    }
    let highest = peaks.last().map_or(y.numbers[1], |(_, peak)| *peak);
    let start = x.numbers[0].max(y.numbers[0] / bandwidth);
    let end = (highest / bandwidth).clamp(x.numbers[0], x.numbers[1]);
    drawing.line([x.at(start), y.at(start * bandwidth)], [x.at(end), y.at(end * bandwidth)], "roof");
    for (shape, line, intensity, rate) in points {
        let (x, y) = (x.at(intensity), y.at(rate));
        let share =
            line.share_of_roof.map_or(String::new(), |share| format!(", {:.0} % of its roof", share * 100.0));
        let title = escape(&format!("{}, {shape}: {} GFLOP/s{share}", line.name, short(rate)));
        let class = class(line.parts());
        if shape.batch == 1 {
            drawing.add(format_args!(
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" class=\"mark {class}\"><title>{title}</title></circle>"
            ));
        } else {
            drawing.add(format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" class=\"mark {class}\"><title>{title}</title></rect>",
                x - 4.5,
                y - 4.5
            ));
        }
    }
    // Behind the marks, and near the end where there are fewest.
    let place = start * (end / start).powf(0.15);
    let slope = (y.at(end * bandwidth) - y.at(start * bandwidth)) / (x.at(end) - x.at(start));
    drawing.add(format_args!(
        "<text transform=\"translate({:.1} {:.1}) rotate({:.1})\" text-anchor=\"middle\" \
         class=\"label\">memory {} GB/s</text>",
        x.at(place),
        y.at(place * bandwidth) - 9.0,
        slope.atan().to_degrees(),
        short(bandwidth)
    ));
    drawing.finish()
}

/// For each shape, the share of its pass that each operation takes.
pub(super) fn shares(report: &Report) -> String {
    let row = 34.0;
    let height = 30.0 + row * report.shapes.len() as f64 + 50.0;
    let mut drawing = Drawing::new(height, "Time by operation");
    let x = Axis { numbers: [0.0, 100.0], points: [90.0, WIDTH - 130.0], logarithmic: false };
    let bottom = height - 60.0;
    for tick in x.ticks() {
        drawing.line([x.at(tick), bottom], [x.at(tick), 20.0], "grid");
        drawing.text([x.at(tick), bottom + 18.0], "middle", "tick", &short(tick));
    }
    drawing.text(
        [(x.points[0] + x.points[1]) / 2.0, bottom + 40.0],
        "middle",
        "title",
        "% of the operations' time",
    );
    for (index, measured) in report.shapes.iter().enumerate() {
        let y = 24.0 + row * index as f64;
        let sum: f64 = measured.operations.iter().map(|line| line.pass_ms).sum();
        drawing.text([82.0, y + 17.0], "end", "label", &measured.shape.to_string());
        let mut from = 0.0;
        for line in &measured.operations {
            let share = line.pass_ms / sum * 100.0;
            let (left, right) = (x.at(from), x.at(from + share));
            from += share;
            let title = escape(&format!("{}: {} ms, {share:.1} %", line.name, short(line.pass_ms)));
            drawing.add(format_args!(
                "<rect x=\"{left:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"24\" class=\"{}\"><title>{title}</title></rect>",
                right - left,
                class(line.parts())
            ));
            if share >= 6.0 {
                drawing.text([(left + right) / 2.0, y + 17.0], "middle", "inside", &format!("{share:.0}"));
            }
        }
        drawing.text([x.points[1] + 8.0, y + 17.0], "start", "label", &format!("{} ms", short(sum)));
    }
    drawing.finish()
}

/// Each layer's operations, one on the other.
pub(super) fn by_layer(measured: &Measured) -> String {
    let height = 300.0;
    let mut drawing = Drawing::new(height, &format!("Time by layer, {}", measured.shape));
    let sum = |layer: &super::layers::Layer| layer.operations.iter().map(|(_, time)| time).sum::<f64>() / 1e3;
    let most = measured.layers.iter().map(sum).fold(0.0, f64::max);
    let y = Axis::linear(most, [height - 60.0, 20.0]);
    let x = [80.0, WIDTH - 20.0];
    for tick in y.ticks() {
        drawing.line([x[0], y.at(tick)], [x[1], y.at(tick)], "grid");
        drawing.text([x[0] - 8.0, y.at(tick) + 4.0], "end", "tick", &short(tick));
    }
    let slot = (x[1] - x[0]) / measured.layers.len().max(1) as f64;
    let bar = (slot * 0.8).min(60.0);
    for (index, layer) in measured.layers.iter().enumerate() {
        let left = x[0] + slot * index as f64 + (slot - bar) / 2.0;
        let mut below = 0.0;
        for (name, time) in &layer.operations {
            let time = time / 1e3;
            let (bottom, top) = (y.at(below), y.at(below + time));
            below += time;
            let parts =
                measured.operations.iter().find(|line| line.name == *name).map_or(&[][..], Line::parts);
            let title = escape(&format!("layer {}, {name}: {} ms", layer.layer, short(time)));
            drawing.add(format_args!(
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{bar:.1}\" height=\"{:.1}\" class=\"{}\"><title>{title}</title></rect>",
                bottom - top,
                class(parts)
            ));
        }
        if measured.layers.len() <= 16 || layer.layer % 4 == 0 {
            drawing.text([left + bar / 2.0, height - 42.0], "middle", "tick", &layer.layer.to_string());
        }
    }
    drawing.line([x[0], y.at(0.0)], [x[1], y.at(0.0)], "axis");
    drawing.text([(x[0] + x[1]) / 2.0, height - 18.0], "middle", "title", "layer");
    drawing.add(format_args!(
        "<text transform=\"translate(22 {:.1}) rotate(-90)\" text-anchor=\"middle\" class=\"title\">ms</text>",
        (height - 40.0) / 2.0
    ));
    drawing.finish()
}

/// Whole passes by their tokens.
pub(super) fn latency(report: &Report) -> String {
    let height = 420.0;
    let mut drawing = Drawing::new(height, "Latency by length");
    let tokens = |measured: &Measured| (measured.shape.batch * measured.shape.tokens) as f64;
    let time = |measured: &Measured| (measured.model.device_us + measured.model.host_us) / 1e3;
    let x = Axis::logarithmic(report.shapes.iter().map(tokens), [80.0, WIDTH - 120.0]);
    let times = report.shapes.iter().flat_map(|measured| [time(measured), measured.model.host_us / 1e3]);
    let y = Axis::logarithmic(times, [height - 60.0, 20.0]);
    drawing.axes(&x, &y, ["tokens in the pass", "ms"], [short, short]);
    let mut single: Vec<&Measured> =
        report.shapes.iter().filter(|measured| measured.shape.batch == 1).collect();
    single.sort_by_key(|measured| measured.shape.tokens);
    for (class, time) in [
        ("whole", &time as &dyn Fn(&Measured) -> f64),
        ("host", &|measured: &Measured| measured.model.host_us / 1e3),
    ] {
        let points: Vec<String> = single
            .iter()
            .map(|measured| format!("{:.1},{:.1}", x.at(tokens(measured)), y.at(time(measured))))
            .collect();
        drawing.add(format_args!("<polyline points=\"{}\" class=\"curve {class}\"/>", points.join(" ")));
    }
    for measured in &report.shapes {
        let [left, top] = [x.at(tokens(measured)), y.at(time(measured))];
        let host = y.at(measured.model.host_us / 1e3);
        let single = measured.shape.batch == 1;
        let title = escape(&format!(
            "{}: {} ms, of which the graph takes {} ms",
            measured.shape,
            short(time(measured)),
            short(measured.model.host_us / 1e3)
        ));
        if single {
            drawing.add(format_args!(
                "<circle cx=\"{left:.1}\" cy=\"{top:.1}\" r=\"5\" class=\"mark whole\"><title>{title}</title></circle>"
            ));
            drawing.add(format_args!(
                "<circle cx=\"{left:.1}\" cy=\"{host:.1}\" r=\"3\" class=\"mark host\"><title>{title}</title></circle>"
            ));
            let text = format!("{} ms", short(time(measured)));
            let (anchor, left) = if left < 140.0 { ("start", left + 6.0) } else { ("end", left - 8.0) };
            drawing.text([left, top - 9.0], anchor, "label", &text);
        } else {
            drawing.add(format_args!(
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" class=\"mark batch\"><title>{title}</title></rect>",
                left - 4.5,
                top - 4.5
            ));
            let text = format!("{}: {} ms", measured.shape, short(time(measured)));
            drawing.text(
                [left + 9.0, top + 18.0],
                if left > WIDTH - 200.0 { "end" } else { "start" },
                "label",
                &text,
            );
        }
    }
    drawing.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_hold_all_numbers_and_keep_their_order() {
        let axis = Axis::logarithmic([0.03, 70.0, 400.0].into_iter(), [100.0, 0.0]);
        assert_eq!(axis.numbers, [0.01, 1000.0]);
        assert_eq!(axis.ticks().len(), 6);
        assert!(axis.at(0.03) > axis.at(70.0) && axis.at(70.0) > axis.at(400.0));
        let axis = Axis::linear(3.2, [100.0, 0.0]);
        assert_eq!((axis.numbers, axis.at(0.0), axis.at(4.0)), ([0.0, 4.0], 100.0, 0.0));
        // Nothing to show is an axis all the same.
        assert!(Axis::logarithmic(std::iter::empty(), [0.0, 1.0]).at(3.0).is_finite());
        assert!(Axis::linear(0.0, [0.0, 1.0]).at(0.5).is_finite());
    }

    #[test]
    fn numbers_are_short_and_keep_their_size() {
        let numbers = [0.0, 0.01, 0.2514, 1.0, 3.17, 42.0, 99.95, 100.0, 1234.0, 20_000.0, 13_177_216.0];
        let shown = numbers.map(short);
        assert_eq!(shown, ["0", "0.01", "0.251", "1", "3.17", "42", "100", "100", "1234", "20k", "13.2M"]);
        assert_eq!(short(f64::NAN), "–");
    }

    #[test]
    fn text_cannot_end_an_element() {
        assert_eq!(escape("<a b=\"c\">&"), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }
}
