//! Charts of the page. plotters draws their lines. The style sheet gives colours and dashes, which
//! a line asks for by the number in its stroke.

use super::numbers::{number, quantity, trimmed, with_unit};
use super::{Chart, Series};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use std::error::Error;
use std::ops::Range;

/// Colours of lines that the style sheet has.
const COLOURS: usize = 6;
/// Colour number of grid and axes.
const GRID: RGBColor = RGBColor(0, 0, 16);
/// plotters calls this the size of text that comes out 13 pixels high.
const TEXT: (&str, u32) = ("sans-serif", 16);
/// Sizes that a chart is drawn in: class, width, height. The page shows the one that fits.
const SIZES: [(&str, u32, u32); 2] = [("wide", 720, 330), ("narrow", 350, 290)];
/// Room for the label of a percentile.
const LABEL: u32 = 54;

/// A range, the labelled values in it, and how their labels come of them and the unit.
#[derive(Clone)]
struct Axis {
    range: Range<f64>,
    ticks: Vec<f64>,
    label: fn(f64, &str) -> String,
    unit: &'static str,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        RangedCoordf64::from(self.range.clone()).map(value, limit)
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        number(*value)
    }

    fn format_ext(&self, value: &f64) -> String {
        (self.label)(*value, self.unit)
    }
}

/// Lines over common axes, in the axes' terms.
struct Lines<'a> {
    x_title: &'static str,
    x: Axis,
    y: Axis,
    series: Vec<Line<'a>>,
}

/// A name and its points.
type Line<'a> = (&'a str, Vec<(f64, f64)>);

/// A chart under its title.
pub(super) fn figure(chart: &Chart) -> String {
    let (title, content) = match chart {
        Chart::Percentiles { title, unit, series } => {
            (title, drawn(percentiles(unit, series), title))
        }
        Chart::Timeline { title, unit, series } => (title, drawn(timeline(unit, series), title)),
        Chart::Bars { title, unit, bars } => (title, table(unit, bars)),
    };
    format!("<figure>\n<figcaption>{}</figcaption>\n{content}</figure>\n", escape(title))
}

/// Text as HTML, for content and quoted attributes.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The finite points of all lines, each as `place` puts it on the axes.
fn placed(series: &[Series], place: impl Fn(f64, f64) -> (f64, f64)) -> Vec<Line<'_>> {
    let finite = |&(x, y): &(f64, f64)| {
        (x.is_finite() && y.is_finite()).then(|| place(x.clamp(0.0, 1e15), y.clamp(0.0, 1e15)))
    };
    let points = |line: &Series| line.points.iter().filter_map(finite).collect();
    series.iter().map(|line| (line.name.as_str(), points(line))).collect()
}

/// Percentiles by how many nines they have, on a logarithmic axis of latency.
fn percentiles<'a>(unit: &'static str, series: &'a [Series]) -> Lines<'a> {
    let nines = |percentile: f64| -(1.0 - percentile.min(99.99999) / 100.0).log10();
    let series = placed(series, |x, y| (nines(x), y.max(1e-3).log10()));
    let points = || series.iter().flat_map(|line| &line.1);
    let end = points().map(|point| point.0).fold(1.0, f64::max);
    let ticks = ["50", "90", "99", "99.9", "99.99", "99.999", "99.9999"]
        .map(|label| nines(label.parse().unwrap_or(0.0)));
    let percentile = |at: f64, _: &str| {
        let decimals = (at.round() - 2.0).max(0.0) as usize;
        format!("{:.decimals$}", 100.0 - 100.0 * 10_f64.powf(-at))
    };
    let x = Axis {
        range: 0.0..end,
        ticks: ticks.into_iter().filter(|at| *at <= end + 1e-6).collect(),
        label: percentile,
        unit: "",
    };
    let (low, high) = points()
        .map(|point| point.1)
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), at| (low.min(at), high.max(at)));
    Lines { x_title: "percentile", x, y: logarithmic(low, high, unit), series }
}

/// From and to one of 1, 2, 5, 10, 20, 50 and so on.
fn logarithmic(lowest: f64, highest: f64, unit: &'static str) -> Axis {
    let decades = lowest.min(15.0).floor() as i32..=highest.max(-3.0).ceil() as i32;
    let steps: Vec<f64> = decades
        .flat_map(|decade| [1.0_f64, 2.0, 5.0].map(|digit| digit.log10() + f64::from(decade)))
        .collect();
    let low = steps.iter().copied().rfind(|step| *step <= lowest + 1e-9).unwrap_or(0.0);
    let high = steps.iter().copied().find(|step| *step > low && *step >= highest - 1e-9);
    let high = high.unwrap_or(low + 1.0);
    let inside: Vec<f64> = steps.into_iter().filter(|step| (low..=high).contains(step)).collect();
    let whole = |step: &f64| inside.len() <= 10 || (step - step.round()).abs() < 1e-9;
    let ticks = inside.iter().copied().filter(whole).collect();
    let label = |at: f64, unit: &str| trimmed_quantity(10_f64.powf(at), unit);
    Axis { range: low..high, ticks, label, unit }
}

/// From 0 on.
fn linear(high: f64, unit: &'static str) -> Axis {
    let range = 0.0..if high > 1e-12 { high } else { 1.0 };
    let ticks = RangedCoordf64::from(range.clone()).key_points(7);
    Axis { range, ticks, label: trimmed_quantity, unit }
}

fn timeline<'a>(unit: &'static str, series: &'a [Series]) -> Lines<'a> {
    let highest = |lines: &[Line<'_>], of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.1).map(of).fold(0.0, f64::max)
    };
    let series = placed(series, |x, y| (x, y));
    let (seconds, high) = (highest(&series, |point| point.0), highest(&series, |point| point.1));
    let (x_title, scale) = if seconds > 600.0 { ("minutes", 60.0) } else { ("seconds", 1.0) };
    let scaled =
        |points: Vec<(f64, f64)>| points.into_iter().map(|(x, y)| (x / scale, y)).collect();
    let series = series.into_iter().map(|(name, points)| (name, scaled(points))).collect();
    Lines { x_title, x: linear(seconds / scale, ""), y: linear(high * 1.05, unit), series }
}

fn trimmed_quantity(value: f64, unit: &str) -> String {
    with_unit(trimmed(&number(value)), unit)
}

/// The drawings in each size, and the key to their lines.
fn drawn(lines: Lines<'_>, title: &str) -> String {
    if lines.series.iter().all(|line| line.1.is_empty()) {
        return "<p>No data.</p>\n".to_owned();
    }
    let label = format!("<svg role=\"img\" aria-label=\"{}\" class=\"chart ", escape(title));
    let drawings = SIZES.map(|(class, width, height)| {
        let svg = lines.draw(width, height).unwrap_or_else(|error| escape(&error.to_string()));
        svg.replacen("<svg ", &format!("{label}{class}\" "), 1)
    });
    let entry = |(index, line): (usize, &Line<'_>)| {
        let stroke = format!("#{:06X}", index % COLOURS);
        let sample = format!("<path stroke=\"{stroke}\" d=\"M4 5H44\"/>");
        let name = escape(line.0);
        format!("<li><svg viewBox=\"0 0 48 10\" aria-hidden=\"true\">{sample}</svg> {name}</li>\n")
    };
    let key: String = lines.series.iter().enumerate().map(entry).collect();
    format!("{}<ul class=\"chart key\">\n{key}</ul>\n", drawings.concat())
}

impl Lines<'_> {
    fn draw(&self, width: u32, height: u32) -> Result<String, Box<dyn Error>> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
        let y_labels = self.y.ticks.iter().map(|&at| self.y.format_ext(&at).chars().count());
        let y_room = y_labels.max().unwrap_or(0) as u32 * 8 + 10;
        // Labels that would touch are left out, beginning with the second last.
        let most = ((width - y_room) / LABEL).max(2) as usize;
        let every = self.x.ticks.len().div_ceil(most).max(1);
        let x_ticks: Vec<f64> = self.x.ticks.iter().rev().step_by(every).copied().collect();
        let mut chart = ChartBuilder::on(&area)
            .margin_top(10)
            .margin_right(24)
            .x_label_area_size(44)
            .y_label_area_size(y_room)
            .build_cartesian_2d(Axis { ticks: x_ticks, ..self.x.clone() }, self.y.clone())?;
        chart
            .configure_mesh()
            .max_light_lines(0)
            .bold_line_style(GRID)
            .axis_style(GRID)
            .label_style(TEXT)
            .x_desc(self.x_title)
            .draw()?;
        for (index, (_, points)) in self.series.iter().enumerate() {
            let colour = RGBColor(0, 0, (index % COLOURS) as u8).stroke_width(2);
            chart.draw_series(LineSeries::new(points.iter().copied(), colour))?;
            // A point that stands alone is no line.
            let dots = points.iter().filter(|_| points.len() == 1);
            chart.draw_series(dots.map(|&at| Circle::new(at, 3, colour)))?;
        }
        area.present()?;
        drop(chart);
        drop(area);
        Ok(svg)
    }
}

/// Bars as a table, whose names wrap as the page narrows.
fn table(unit: &str, bars: &[(String, f64)]) -> String {
    let finite = bars.iter().map(|bar| bar.1).filter(|value| value.is_finite());
    let longest = finite.fold(f64::MIN_POSITIVE, f64::max);
    let row = |(name, value): &(String, f64)| {
        let share = (value.max(0.0) / longest).min(1.0) * 100.0;
        format!(
            "<tr><th scope=\"row\">{}</th><td><i style=\"width:{share:.1}%\"></i>{}</td></tr>\n",
            escape(name),
            escape(&quantity(*value, unit))
        )
    };
    let rows: String = bars.iter().map(row).collect();
    format!("<table class=\"bars\">\n{rows}</table>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value that was not measured must not spoil the line of the others.
    #[test]
    fn charts_hold_only_finite_coordinates() {
        let values =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -1.0, f64::MAX, f64::MIN_POSITIVE];
        let points: Vec<(f64, f64)> = values.iter().flat_map(|x| values.map(|y| (*x, y))).collect();
        let series = vec![Series { name: "a<b".to_owned(), points }];
        let bars = values.iter().map(|value| ("bar".to_owned(), *value)).collect();
        for chart in [
            Chart::Percentiles { title: String::new(), unit: "µs", series: series.clone() },
            Chart::Timeline { title: String::new(), unit: "", series },
            Chart::Bars { title: String::new(), unit: "", bars },
        ] {
            let drawn = figure(&chart);
            assert!(
                !drawn.contains("NaN") && !drawn.contains("inf") && !drawn.contains("a<b"),
                "{drawn}"
            );
        }
    }
}
