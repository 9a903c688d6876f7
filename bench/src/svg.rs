//! Draws bars in panels. It brings its own background for light and dark pages.

use std::fmt::Write;

/// Who a bar belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The machine's limit.
    Limit,
    /// fltport.
    Ours,
    /// Somebody else who spins.
    Spins,
    /// Somebody else who parks.
    Parks,
}

/// One bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What it is.
    pub label: String,
    /// How long it is.
    pub value: f64,
    /// The value, and where it was least and most, in words.
    pub text: String,
    /// Its colour.
    pub kind: Kind,
}

/// A picture.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above everything.
    pub title: String,
    /// Below that: how it was measured.
    pub notes: Vec<String>,
    /// What the bars measure.
    pub axis: String,
    /// Tenfold steps instead of equal ones.
    pub logarithmic: bool,
    /// Bars under headings.
    pub panels: Vec<(String, Vec<Bar>)>,
}

const WIDTH: f64 = 860.0;
/// Where bars start.
const LEFT: f64 = 212.0;
/// How long the longest one is; its value stands to the right.
const PLOT: f64 = 500.0;
const LINE: f64 = 20.0;
const HEADING: f64 = 30.0;

const STYLE: &str = "<style>
text { font: 12px system-ui, sans-serif; fill: #1f2328 } .title { font-size: 15px; font-weight: 600 }
.heading { font-weight: 600 } .label { fill: #59636e } .back { fill: #ffffff } .grid { stroke: #d1d9e0; stroke-width: 1 }
.limit { fill: #8c959f } .ours { fill: #0969da } .spins { fill: #bc4c00 } .parks { fill: #8250df }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .label { fill: #9198a1 } .back { fill: #0d1117 } .grid { stroke: #3d444d }
.limit { fill: #656c76 } .ours { fill: #4493f8 } .spins { fill: #db6d28 } .parks { fill: #ab7df8 } }
</style>
";

const KINDS: [(Kind, &str, &str); 4] = [
    (Kind::Limit, "limit", "limit of the machine"),
    (Kind::Ours, "ours", "fltport"),
    (Kind::Spins, "spins", "others, spinning"),
    (Kind::Parks, "parks", "others, parking"),
];

/// Draws it.
pub fn draw(chart: &Chart) -> String {
    let top = 40.0 + 17.0 * chart.notes.len() as f64 + 22.0;
    let lines: usize = chart.panels.iter().map(|(_, bars)| bars.len()).sum();
    let bottom = top + HEADING * chart.panels.len() as f64 + LINE * lines as f64 + 6.0;
    let height = bottom + 46.0;
    let mut out = String::new();
    put(
        &mut out,
        format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{0}</title>\n{STYLE}<rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n<text class=\"title\" x=\"20\" y=\"26\">{0}</text>\n",
            escaped(&chart.title)
        ),
    );
    for (note, line) in chart.notes.iter().zip(0u8..) {
        let y = 45.0 + 17.0 * f64::from(line);
        put(
            &mut out,
            format_args!(
                "<text class=\"label\" x=\"20\" y=\"{y}\">{}</text>\n",
                escaped(note)
            ),
        );
    }
    legend(&mut out, chart, top - 14.0);
    let scale = Scale::of(chart);
    for value in scale.steps() {
        let x = LEFT + scale.length(value);
        put(
            &mut out,
            format_args!(
                "<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/><text class=\"label\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>\n",
                bottom + 15.0,
                plain(value)
            ),
        );
    }
    let mut y = top;
    for (heading, bars) in &chart.panels {
        y += HEADING;
        put(
            &mut out,
            format_args!(
                "<text class=\"heading\" x=\"20\" y=\"{}\">{}</text>\n",
                y - 9.0,
                escaped(heading)
            ),
        );
        for bar in bars {
            draw_bar(&mut out, bar, y, scale.length(bar.value));
            y += LINE;
        }
    }
    put(
        &mut out,
        format_args!(
            "<text class=\"label\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">{}</text>\n</svg>\n",
            LEFT + PLOT / 2.0,
            bottom + 34.0,
            escaped(&chart.axis)
        ),
    );
    out
}

fn draw_bar(out: &mut String, bar: &Bar, y: f64, length: f64) {
    let class = KINDS
        .iter()
        .find(|(kind, _, _)| *kind == bar.kind)
        .map_or("", |(_, class, _)| class);
    let (text_y, anchor, after) = (y + 12.0, LEFT - 8.0, LEFT + length + 6.0);
    put(
        out,
        format_args!(
            "<text text-anchor=\"end\" x=\"{anchor}\" y=\"{text_y}\">{}</text><rect class=\"{class}\" x=\"{LEFT}\" y=\"{}\" width=\"{length:.1}\" height=\"14\" rx=\"2\"/><text x=\"{after:.1}\" y=\"{text_y}\">{}</text>\n",
            escaped(&bar.label),
            y + 1.0,
            escaped(&bar.text)
        ),
    );
}

/// Names the colours that occur.
fn legend(out: &mut String, chart: &Chart, y: f64) {
    let mut x = 20.0;
    for (kind, class, name) in KINDS {
        let bars = chart.panels.iter().flat_map(|(_, bars)| bars);
        if !bars.into_iter().any(|bar| bar.kind == kind) {
            continue;
        }
        put(
            out,
            format_args!(
                "<rect class=\"{class}\" x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" rx=\"2\"/><text class=\"label\" x=\"{}\" y=\"{y}\">{name}</text>\n",
                y - 9.0,
                x + 15.0
            ),
        );
        x += 34.0 + 6.6 * name.len() as f64;
    }
}

/// From values to lengths.
struct Scale {
    logarithmic: bool,
    least: f64,
    most: f64,
}

impl Scale {
    fn of(chart: &Chart) -> Self {
        let bars = chart.panels.iter().flat_map(|(_, bars)| bars);
        let values: Vec<f64> = bars
            .map(|bar| bar.value)
            .filter(|value| value.is_finite() && *value > 0.0)
            .collect();
        let most = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let least = values.iter().copied().fold(most, f64::min);
        if !chart.logarithmic || values.is_empty() {
            return Self {
                logarithmic: false,
                least: 0.0,
                most: most.max(1e-9),
            };
        }
        // The shortest bar must be seen: the axis starts at the power of ten below.
        let least = 10_f64.powf((least * 0.8).log10().floor());
        Self {
            logarithmic: true,
            least,
            most: most.max(least * 10.0),
        }
    }

    fn length(&self, value: f64) -> f64 {
        if value.is_nan() || value <= self.least {
            return 0.0;
        }
        let share = if self.logarithmic {
            (value / self.least).ln() / (self.most / self.least).ln()
        } else {
            value / self.most
        };
        share * PLOT
    }

    fn steps(&self) -> Vec<f64> {
        let mut steps = Vec::new();
        if self.logarithmic {
            let mut value = self.least;
            while value <= self.most * 1.000_001 {
                steps.push(value);
                value *= 10.0;
            }
            return steps;
        }
        let step = nice(self.most / 6.0);
        while steps.len() as f64 * step <= self.most * 1.000_001 {
            steps.push(steps.len() as f64 * step);
        }
        steps
    }
}

/// The next of 1, 2, 5, 10 and so on.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let lead = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|lead| lead * power >= value * 0.999_999);
    lead.unwrap_or(10.0) * power
}

fn plain(value: f64) -> String {
    let text = match value {
        value if value >= 1e6 => return format!("{} M", plain(value / 1e6)),
        value if value >= 1e4 => return format!("{} k", plain(value / 1e3)),
        value => format!("{value:.4}"),
    };
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn put(out: &mut String, what: std::fmt::Arguments<'_>) {
    // A string takes whatever is written.
    out.write_fmt(what).ok();
}

#[cfg(test)]
mod tests {
    use super::{Bar, Chart, Kind, Scale, draw, plain};

    fn chart(values: &[f64], logarithmic: bool) -> Chart {
        let bars = values.iter().map(|value| Bar {
            label: "a < b".to_owned(),
            value: *value,
            text: value.to_string(),
            kind: Kind::Ours,
        });
        Chart {
            title: "T".to_owned(),
            notes: vec!["n".to_owned()],
            axis: "us".to_owned(),
            logarithmic,
            panels: vec![("p".to_owned(), bars.collect())],
        }
    }

    #[test]
    fn the_longest_bar_fills_the_plot_and_the_shortest_is_seen() {
        for logarithmic in [false, true] {
            let scale = Scale::of(&chart(&[0.12, 0.93, 55.0], logarithmic));
            assert!((scale.length(55.0) - super::PLOT).abs() < 1e-6);
            assert!(scale.length(0.12) > 1.0);
            assert!(scale.steps().len() >= 3);
        }
    }

    #[test]
    fn nothing_to_draw_is_drawn() {
        assert!(draw(&chart(&[], true)).ends_with("</svg>\n"));
        assert!(draw(&chart(&[1.0], true)).contains("a &lt; b"));
    }

    #[test]
    fn steps_are_written_short() {
        assert_eq!(
            [0.1, 20.0, 1e4, 2e6].map(plain),
            ["0.1", "20", "10 k", "2 M"]
        );
    }
}
