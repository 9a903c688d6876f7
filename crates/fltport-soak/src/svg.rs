//! The picture of a soak: five quantities over the same minutes. It brings its own background for light and dark pages.

use std::fmt::Write;
use std::time::Duration;

use crate::sample::{Quiet, Sample};

/// Draws it.
pub(crate) fn draw(title: &str, samples: &[Sample], quiet: &[Quiet]) -> String {
    let end = samples
        .last()
        .map_or(1.0, |last| minutes(last.at))
        .max(0.01);
    let of = |pick: &dyn Fn(&Sample) -> f64| -> Vec<(f64, f64)> {
        samples
            .iter()
            .map(|sample| (minutes(sample.at), pick(sample)))
            .collect()
    };
    let charts: [_; CHARTS as usize] = [
        (
            "Memory of the host",
            "MiB",
            of(&|s| mebibytes(s.usage.memory)),
        ),
        (
            "Descriptors of the host",
            "open",
            of(&|s| count(s.usage.descriptors)),
        ),
        (
            "Threads of the host",
            "threads",
            of(&|s| count(s.usage.threads)),
        ),
        (
            "Operations seen by the host",
            "per second",
            of(&|s| number(s.operations)),
        ),
        ("Live connections", "connections", of(&|s| count(s.live))),
    ];
    let height = TOP + CHARTS * CHART + 30;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>Soak: {title}</title>\n{STYLE}<rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n<text class=\"title\" x=\"{LEFT}\" y=\"26\">Soak: {title}</text>\n"
    );
    for ((name, unit, points), index) in charts.iter().zip(0..) {
        let top = TOP + index * CHART;
        let dots: Vec<_> = if index == 0 {
            quiet
                .iter()
                .map(|point| (minutes(point.at), mebibytes(point.memory)))
                .collect()
        } else {
            Vec::new()
        };
        let note = if dots.is_empty() {
            ""
        } else {
            "; dots: at quiet points, no client connected"
        };
        chart(
            &mut out,
            &format!("{name}, {unit}{note}"),
            top,
            end,
            points,
            &dots,
        );
    }
    let bottom = height - 8;
    let middle = LEFT + PLOT / 2;
    put(
        &mut out,
        format_args!(
            "<text class=\"label\" text-anchor=\"middle\" x=\"{middle}\" y=\"{bottom}\">minutes since the start</text>\n</svg>\n"
        ),
    );
    out
}

/// Digits in groups of three.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (digit, left) in digits.chars().zip((0..digits.len()).rev()) {
        out.push(digit);
        if left % 3 == 0 && left > 0 {
            out.push(',');
        }
    }
    out
}

/// Bytes in MiB.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    number(bytes >> 10) / 1024.0
}

const WIDTH: u32 = 860;
const LEFT: u32 = 62;
const PLOT: u32 = 780;
const TOP: u32 = 44;
const CHARTS: u32 = 5;
const CHART: u32 = 134;
const DEEP: u32 = 88;

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.label { fill: #59636e } .back { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: 1 }
.band { fill: #0969da; opacity: .25 } .line { fill: none; stroke: #0969da; stroke-width: 1.3 } .dot { fill: #bc4c00 }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .label { fill: #9198a1 } .back { fill: #0d1117 } .grid { stroke: #3d444d }
.band { fill: #4493f8 } .line { stroke: #4493f8 } .dot { fill: #f0883e } }
</style>
";

/// One quantity: its mean in each column of the picture as a line, from its least to its most as a band.
fn chart(
    out: &mut String,
    label: &str,
    top: u32,
    end: f64,
    points: &[(f64, f64)],
    dots: &[(f64, f64)],
) {
    let most = points
        .iter()
        .chain(dots)
        .map(|point| point.1)
        .fold(1.0, f64::max);
    let step = nice(most / 3.0);
    let whole = (most / step).ceil() * step;
    let base = f64::from(top + 20 + DEEP);
    let x = |minutes: f64| f64::from(LEFT) + minutes / end * f64::from(PLOT);
    let y = |value: f64| base - value / whole * f64::from(DEEP);
    let label_y = top + 12;
    put(
        out,
        format_args!("<text x=\"{LEFT}\" y=\"{label_y}\">{label}</text>\n"),
    );
    let right = LEFT + PLOT;
    let mut value = 0.0;
    while value <= whole + step / 2.0 {
        let (at, text) = (y(value), svg_number(value));
        let (anchor, below) = (LEFT - 6, at + 4.0);
        put(
            out,
            format_args!(
                "<path class=\"grid\" d=\"M{LEFT} {at:.1}H{right}\"/><text class=\"label\" text-anchor=\"end\" x=\"{anchor}\" y=\"{below:.1}\">{text}</text>\n"
            ),
        );
        value += step;
    }
    let step = nice(end / 8.0);
    let mut value = 0.0;
    while value <= end + step / 100.0 {
        let (at, below, text) = (x(value), base + 14.0, svg_number(value));
        put(
            out,
            format_args!(
                "<text class=\"label\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{below:.1}\">{text}</text>\n"
            ),
        );
        value += step;
    }
    let columns = columns(points, end);
    let mut band = String::new();
    for (at, least, _, _) in &columns {
        put(&mut band, format_args!("{:.1},{:.1} ", x(*at), y(*least)));
    }
    for (at, _, _, most) in columns.iter().rev() {
        put(&mut band, format_args!("{:.1},{:.1} ", x(*at), y(*most)));
    }
    put(
        out,
        format_args!("<polygon class=\"band\" points=\"{}\"/>\n", band.trim_end()),
    );
    let mut line = String::new();
    for (at, _, mean, _) in &columns {
        put(&mut line, format_args!("{:.1},{:.1} ", x(*at), y(*mean)));
    }
    put(
        out,
        format_args!(
            "<polyline class=\"line\" points=\"{}\"/>\n",
            line.trim_end()
        ),
    );
    for (at, value) in dots {
        put(
            out,
            format_args!(
                "<circle class=\"dot\" r=\"2.2\" cx=\"{:.1}\" cy=\"{:.1}\"/>\n",
                x(*at),
                y(*value)
            ),
        );
    }
}

/// Time, least, mean and most of what falls into the same two pixels.
fn columns(points: &[(f64, f64)], end: f64) -> Vec<(f64, f64, f64, f64)> {
    let width = end * 2.0 / f64::from(PLOT);
    points
        .chunk_by(|a, b| (a.0 / width).floor() == (b.0 / width).floor())
        .map(|column| {
            let values = column.iter().map(|point| point.1);
            let length = count(column.len());
            let middle = column.iter().map(|point| point.0).sum::<f64>() / length;
            let least = values.clone().fold(f64::INFINITY, f64::min);
            let most = values.clone().fold(0.0, f64::max);
            (middle, least, values.sum::<f64>() / length, most)
        })
        .collect()
}

/// The next of 1, 2, 5, 10 and so on.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let lead = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|lead| lead * power >= value * 0.999_999);
    lead.unwrap_or(10.0) * power
}

fn svg_number(value: f64) -> String {
    if value.fract().abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        let text = format!("{value:.3}");
        text.trim_end_matches('0').to_string()
    }
}

fn minutes(at: Duration) -> f64 {
    at.as_secs_f64() / 60.0
}

fn count(value: usize) -> f64 {
    number(value as u64)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nobody sees the sixteenth digit in a picture"
)]
fn number(value: u64) -> f64 {
    value as f64
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    out.write_fmt(what).expect("a string takes what is written");
}

#[cfg(test)]
mod tests {
    use super::{columns, draw, grouped, nice};

    #[test]
    fn numbers_are_grouped_and_steps_are_round() {
        assert_eq!(
            [0, 999, 1_000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
        assert_eq!(
            [0.04, 1.0, 1.1, 30.0, 70.0].map(nice),
            [0.05, 1.0, 2.0, 50.0, 100.0]
        );
    }

    #[test]
    fn a_spike_is_seen_however_long_the_soak() {
        let mut points: Vec<_> = (0..6_000)
            .map(|second| (f64::from(second) / 60.0, 1.0))
            .collect();
        points[3_000].1 = 50.0;
        let columns = columns(&points, 100.0);
        assert!(columns.len() < 400);
        assert!(columns.iter().any(|column| column.3 == 50.0));
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        assert!(draw("nothing", &[], &[]).ends_with("</svg>\n"));
    }
}
