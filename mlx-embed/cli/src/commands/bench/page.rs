//! The page of `bench --layers --html`: one file, no network, light and dark.

use std::io;
use std::path::Path;

use super::layers::{Bound, Line, Measured, Report};
use super::plot::{self, escape, short};
use crate::error::CliError;
use crate::output::{NewFile, Sources};

/// A file that will hold a page.
#[derive(Debug)]
pub(super) struct Page {
    name: String,
    file: NewFile,
}

/// Starts the file; one that exists stays until the page is written.
pub(super) fn create(path: &Path, sources: &Sources) -> Result<Page, CliError> {
    let name = path.display().to_string();
    match NewFile::create(path, |file| sources.refuse(file)) {
        Ok(file) => Ok(Page { name, file }),
        Err(source) => Err(CliError::Write { name, source }),
    }
}

impl Page {
    pub(super) fn write(mut self, report: &Report) -> Result<(), CliError> {
        let written: io::Result<()> =
            self.file.append(page(report).as_bytes()).and_then(|()| self.file.publish());
        written.map_err(|source| CliError::Write { name: self.name, source })
    }
}

const STYLE: &str = include_str!("page.css");

fn page(report: &Report) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>mlx-embed bench --layers</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>Where the time of a pass goes</h1>\n{}",
        facts(report)
    );
    html.push_str(&section(
        "Roofline",
        "A mark is an operation of one shape, round for one text and square for several. None can be above the lines, \
         but for what comes from caches rather than from memory. Point at a mark to see what it is.",
        &format!("{}{}", plot::roofline(report), legend(report, true)),
    ));
    html.push_str(&section(
        "Time by operation",
        "Each operation computed by itself, host and device time of all its calls in a pass.",
        &format!("{}{}", plot::shares(report), legend(report, false)),
    ));
    html.push_str(&section(
        "Latency by length",
        "Whole passes, from token ids to vectors, computed at once: medians. Below, how much of it the host needs to \
         build the graph. Weights are out of the caches before each pass.",
        &format!(
            "{}<p class=\"legend\"><span><i class=\"whole\"></i>one text</span><span><i class=\"batch\"></i>several \
             texts</span><span><i class=\"host\"></i>building the graph, one text</span></p>\n",
            plot::latency(report)
        ),
    ));
    let layers: String = report
        .shapes
        .iter()
        .map(|measured| {
            format!(
                "<figure><figcaption>{}</figcaption>{}</figure>\n",
                measured.shape,
                plot::by_layer(measured)
            )
        })
        .collect();
    html.push_str(&section(
        "Time by layer",
        "The operations of each layer. In the last one, what follows attention may run on the rows that are pooled only.",
        &format!("<div class=\"grid\">{layers}</div>{}", legend(report, false)),
    ));
    html.push_str("<h2>All numbers</h2>\n<p>Times are medians of a call; <code>ms a pass</code> is that of all calls of a pass. \
                   Of the roof: the least time that the device could take, of the time that it takes.</p>\n");
    for measured in &report.shapes {
        html.push_str(&table(measured));
    }
    html.push_str(&beside(report));
    // A program may want the numbers, too. In JSON a slash may be escaped, and so can't end the element.
    let json = serde_json::to_string(report).unwrap_or_default().replace("</", "<\\/");
    html.push_str(&format!(
        "<script type=\"application/json\" id=\"report\">{json}</script>\n</body>\n</html>\n"
    ));
    html
}

fn section(title: &str, about: &str, content: &str) -> String {
    format!("<section>\n<h2>{title}</h2>\n<p>{about}</p>\n{content}</section>\n")
}

fn facts(report: &Report) -> String {
    let peaks: Vec<String> =
        report.roofline.peaks().iter().map(|(name, peak)| format!("{name} {}", short(*peak))).collect();
    let processor =
        report.machine.processor.name.clone().unwrap_or_else(|| "a processor without a name".to_owned());
    let cores = report.machine.processor.cores;
    let rows = [
        (
            "Model",
            format!(
                "{}: {} parameters, {} layers, {} pooling",
                report.model.path.display(),
                short(report.model.parameters as f64),
                report.model.layers,
                report.model.pooling
            ),
        ),
        ("Ran on", report.title()),
        ("Machine", format!("{processor}, {cores} {}", if cores == 1 { "core" } else { "cores" })),
        (
            "Roofs",
            format!(
                "{} GFLOP/s; memory {} GB/s, measured in this run",
                peaks.join(", "),
                short(report.roofline.gb_per_s)
            ),
        ),
        ("Versions", format!("mlx-embed {}, MLX {}", env!("CARGO_PKG_VERSION"), report.machine.mlx_version)),
    ];
    let rows: String =
        rows.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>\n", escape(value))).collect();
    format!("<dl>\n{rows}</dl>\n")
}

/// The colours of the operations; in a roofline only of those that compute.
fn legend(report: &Report, computing: bool) -> String {
    let mut lines: Vec<&Line> = Vec::new();
    for line in report.shapes.iter().flat_map(|measured| &measured.operations) {
        if (!computing || line.gflops.is_some()) && lines.iter().all(|known| known.name != line.name) {
            lines.push(line);
        }
    }
    let entry = |line: &&Line| {
        format!("<span><i class=\"{}\"></i>{}</span>", plot::class(line.parts()), escape(&line.name))
    };
    format!("<p class=\"legend\">{}</p>\n", lines.iter().map(entry).collect::<String>())
}

fn table(measured: &Measured) -> String {
    let number = |value: Option<f64>| value.map_or("–".to_owned(), short);
    let row = |line: &Line| {
        let bound = match line.bound {
            Some(Bound::Memory) => "memory",
            Some(Bound::Compute) => "compute",
            None => "–",
        };
        let share = line.share_of_roof.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
        format!(
            "<tr><td><i class=\"{}\"></i>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{share}</td><td>{bound}</td></tr>\n",
            plot::class(line.parts()),
            escape(&line.name),
            line.calls,
            short(line.pass_ms),
            short(line.host_us),
            short(line.device_us),
            number(line.gflops),
            number(line.gb_per_s),
        )
    };
    let rows: String =
        measured.operations.iter().chain([&measured.layer, &measured.model]).map(row).collect();
    let passes = if measured.rounds == 1 { "pass" } else { "passes" };
    format!(
        "<details><summary>{}, {} {passes}</summary>\n<div class=\"wide\"><table>\n<thead><tr><th>operation</th><th>calls</th>\
         <th>ms a pass</th><th>host µs</th><th>device µs</th><th>GFLOP/s</th><th>GB/s</th><th>of the roof</th>\
         <th>bound by</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n</details>\n",
        measured.shape, measured.rounds
    )
}

/// What is not part of a pass.
fn beside(report: &Report) -> String {
    let load = &report.load;
    let mut rows = format!(
        "<tr><td>loading, files in the system's cache</td><td>{} ms</td><td>{} GB/s of weights, {:.0} % of reading \
         memory</td></tr>\n",
        short(load.p50_ms),
        short(load.gb_per_s),
        load.share_of_roof * 100.0
    );
    for line in &report.tokenisation {
        rows.push_str(&format!(
            "<tr><td>tokenising {} bytes to {} tokens</td><td>{} µs</td><td>{} MB/s</td></tr>\n",
            line.bytes,
            line.tokens,
            short(line.p50_us),
            short(line.mb_per_s)
        ));
    }
    format!("<h2>Before a pass</h2>\n<div class=\"wide\"><table><tbody>\n{rows}</tbody></table></div>\n")
}
