//! A report as one HTML page with its styles and charts inside: it loads nothing and runs nothing.

use crate::machine::Machine;
use crate::report::{Chart, Goal, Report, Row, Series};

/// Size of the text in drawings, in user units. A drawing is shown at about one CSS pixel a unit.
const FONT: f64 = 13.0;
/// Height of a line of text in drawings.
const LINE: f64 = 17.0;
/// Colours of lines; the style sheet has as many.
const COLOURS: usize = 6;
/// Dashes of lines, so that they differ without colour.
const DASHES: [&str; 5] = ["", "7 6", "1 6", "12 5 1 5", "16 7"];
/// Width of a goal's bar.
const BAR: f64 = 200.0;
/// Where the goal is on its bar.
const MARK: f64 = 80.0;

const BAR_LEGEND: &str = "<p class=\"legend\">The upright line marks the goal and the shaded side is where it is met. The thin line \
    at the end of a bar runs from the lowest to the highest ratio. A cut bar goes on beyond the scale.</p>\n";
const BAR_CUT: &str = "<path class=\"gap\" d=\"M178 22l8-20h7l-8 20z\"/><path class=\"edge\" d=\"M178 22l8-20M185 22l8-20\"/>";

/// A size that charts are drawn in. The page holds each chart once for each size and shows one.
struct Canvas {
    class: &'static str,
    width: f64,
    height: f64,
    /// Widest name that is written beside a line or bar.
    name_max: f64,
}

const CANVASES: [Canvas; 2] = [
    Canvas { class: "wide", width: 720.0, height: 330.0, name_max: 190.0 },
    Canvas { class: "narrow", width: 350.0, height: 290.0, name_max: 0.0 },
];

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let (peers, goals): (Vec<&Goal>, Vec<&Goal>) =
        report.goals.iter().partition(|goal| goal.peer.is_some());
    let charts: String = report.charts.iter().map(figure).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{}\
         <p class=\"machine\">{}</p>\n<p><code>{}</code></p>\n{}{}{}{}</main>\n</body>\n</html>\n",
        finding(&report.goals),
        machine(&report.machine),
        escape(&report.command),
        goal_table("Goals", &goals, true),
        goal_table("Peers", &peers, goals.is_empty()),
        section("Charts", &charts),
        row_table(&report.rows),
    )
}

/// How many goals are met, and which are not.
fn finding(goals: &[Goal]) -> String {
    if goals.is_empty() {
        return String::new();
    }
    let missed: Vec<String> =
        goals.iter().filter(|goal| !goal.met).map(|goal| escape(goal.id)).collect();
    let list =
        if missed.is_empty() { String::new() } else { format!("; not met: {}", missed.join(", ")) };
    format!(
        "<p class=\"finding\">{} of {} goals met{list}</p>\n",
        goals.len() - missed.len(),
        goals.len()
    )
}

/// The machine in one line.
fn machine(machine: &Machine) -> String {
    let cpus =
        if machine.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", machine.cpus) };
    let system = if machine.kernel.starts_with("Linux") { "" } else { "Linux " };
    let steal = quantity(machine.steal_percent, "%");
    let Machine { model, kernel, governor, mitigations, .. } = machine;
    escape(&format!(
        "{cpus} · {model} · {system}{kernel} · governor: {governor} · mitigations: {mitigations} · steal time: {steal}"
    ))
}

/// A part of the page under a heading; nothing if it is empty.
fn section(heading: &str, content: &str) -> String {
    if content.is_empty() {
        String::new()
    } else {
        format!("<section>\n<h2>{heading}</h2>\n{content}</section>\n")
    }
}

fn row_table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let cells = |row: &Row| {
        format!(
            "<th scope=\"row\">{}</th><td>{}</td>",
            escape(&row.name),
            escape(&quantity(row.value, row.unit))
        )
    };
    let lines: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells(row))).collect();
    let head = "<thead><tr><th scope=\"col\">Figure</th><th scope=\"col\">Value</th></tr></thead>";
    section(
        "Figures",
        &format!("<table class=\"rows\">\n{head}\n<tbody>\n{lines}</tbody>\n</table>\n"),
    )
}

fn goal_table(heading: &str, goals: &[&Goal], with_legend: bool) -> String {
    if goals.is_empty() {
        return String::new();
    }
    let columns =
        ["#", "What", "Ours", "Against", "Ratio", "Goal", "Ratio beside the goal", "Result"];
    let head: String =
        columns.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
    let rows: String = goals.iter().map(|goal| goal_row(goal)).collect();
    let legend = if with_legend { BAR_LEGEND } else { "" };
    section(
        heading,
        &format!(
            "{legend}<table class=\"goals\">\n<thead><tr>{head}</tr></thead>\n{rows}</table>\n"
        ),
    )
}

/// A goal as a group of rows: its figures, and its note under them.
fn goal_row(goal: &Goal) -> String {
    // Without a floor the ratio is the figure itself and has its unit.
    let unit = if goal.floor.is_some() { "" } else { goal.unit };
    // A ratio that would read like a goal that it is not gets more digits.
    let (short, longer) = (number(goal.ratio), significant(goal.ratio, 6));
    let same = goal.ratio != goal.goal && short == number(goal.goal);
    let ratio = with_unit(if same { trimmed(&longer) } else { &short }, unit);
    let spread = if goal.low < goal.high {
        format!("{} to {}", number(goal.low), number(goal.high))
    } else {
        String::new()
    };
    let bound = format!(
        "{} {}",
        if goal.at_least { "at\u{a0}least" } else { "at\u{a0}most" },
        with_unit(trimmed(&number(goal.goal)), unit)
    );
    let (class, result) = if goal.met { ("met", "met") } else { ("missed", "not met") };
    let peer = goal.peer.as_ref().map_or(String::new(), |peer| around("<b>", peer, "</b><br>"));
    let floor = goal.floor.map_or(String::new(), |floor| escape(&quantity(floor, goal.unit)));
    let against = around("<small>", &goal.against, "</small>");
    let note = around("<tr class=\"note\"><td colspan=\"8\">", &goal.note, "</td></tr>\n");
    format!(
        "<tbody class=\"{class}\">\n<tr><th scope=\"row\">{}</th><td class=\"what\">{peer}{}</td><td data-label=\"Ours\">{}</td>\
         <td class=\"against\"{}><span>{floor}{against}</span></td>\
         <td data-label=\"Ratio\"><span>{}{}</span></td><td data-label=\"Goal\">{}</td>\
         <td class=\"bar\">{}</td><td class=\"result\">{result}</td></tr>\n{note}</tbody>\n",
        escape(goal.id),
        escape(&goal.what),
        escape(&quantity(goal.ours, goal.unit)),
        if floor.is_empty() && against.is_empty() { "" } else { " data-label=\"Against\"" },
        escape(&ratio),
        around("<small class=\"spread\">", &spread, "</small>"),
        escape(&bound),
        goal_bar(goal, &format!("{ratio}, {bound}: {result}")),
    )
}

/// The ratio as a bar, linear from 0, with the goal at the same place for every goal.
fn goal_bar(goal: &Goal, label: &str) -> String {
    let place = |value: f64| {
        let x = if goal.goal > 0.0 {
            value / goal.goal * MARK
        } else {
            value.signum() * value.abs().min(1.0) * f64::INFINITY
        };
        // NaN has no place: 0 times infinity above, or not measured.
        if x.is_nan() { 0.0 } else { x.max(0.0) }
    };
    let (length, low, high) =
        (place(goal.ratio), place(goal.low).min(BAR), place(goal.high).min(BAR));
    let (zone, zone_width) = if goal.at_least { (MARK, BAR - MARK) } else { (0.0, MARK) };
    let shown = if goal.ratio > 0.0 { length.clamp(1.5, BAR) } else { 0.0 };
    let cut = if length > BAR { BAR_CUT } else { "" };
    let spread = if high > low {
        format!("<path class=\"range\" d=\"M{low:.1} 12H{high:.1}\"/>").repeat(2)
    } else {
        String::new()
    };
    format!(
        "<svg viewBox=\"0 0 {BAR} 24\" role=\"img\" aria-label=\"{}\"><rect class=\"zone\" x=\"{zone}\" y=\"1\" width=\"{zone_width}\" \
         height=\"22\"/><rect class=\"fill\" x=\"0\" y=\"6\" width=\"{shown:.1}\" height=\"12\"/>{spread}{cut}\
         <path class=\"mark\" d=\"M{MARK} 0V24\"/></svg>",
        escape(label)
    )
}

/// A chart under its title, in each size.
fn figure(chart: &Chart) -> String {
    let (title, drawings) = match chart {
        Chart::Percentiles { title, unit, series } => {
            (title, percentiles(unit, series).draw(title))
        }
        Chart::Timeline { title, unit, series } => (title, timeline(unit, series).draw(title)),
        Chart::Bars { title, unit, bars } => (
            title,
            CANVASES.iter().map(|canvas| draw_bars(canvas, title, unit, bars)).collect::<String>(),
        ),
    };
    let content = if drawings.is_empty() { "<p>No data.</p>\n" } else { &drawings };
    format!("<figure>\n<figcaption>{}</figcaption>\n{content}</figure>\n", escape(title))
}

/// A range of values and the labelled ones in it. Logarithmic axes hold logarithms.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Where a value is when the axis is drawn between two places.
    fn place(&self, value: f64, from: f64, to: f64) -> f64 {
        from + (value / (self.high - self.low) - self.low / (self.high - self.low)).clamp(0.0, 1.0)
            * (to - from)
    }

    /// From 0 or below to the highest value, or to the first tick from there on.
    fn linear(values: impl Iterator<Item = f64> + Clone, up_to_tick: bool) -> Self {
        let values = values.map(|value| value.clamp(-1e18, 1e18));
        let (low, highest) = (values.clone().fold(0.0, f64::min), values.fold(0.0, f64::max));
        let high = if highest - low > 1e-12 { highest } else { low + 1.0 };
        let rough = high / 5.0 - low / 5.0;
        let decade = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0]
            .map(|digit| digit * decade)
            .into_iter()
            .find(|step| *step >= rough * 0.7)
            .unwrap_or(10.0 * decade);
        let last =
            if up_to_tick { (high / step - 1e-9).ceil() } else { (high / step + 1e-9).floor() };
        let first =
            if up_to_tick { (low / step + 1e-9).floor() } else { (low / step - 1e-9).ceil() };
        let ticks: Vec<(f64, String)> = (first as i64..=last as i64)
            .map(|n| n as f64 * step)
            .map(|at| (at, trimmed(&number(at)).to_owned()))
            .collect();
        if up_to_tick {
            Self { low: first * step, high: last * step, ticks }
        } else {
            Self { low, high, ticks }
        }
    }

    /// From and to one of 1, 2, 5, 10, 20, 50 and so on; values of 0 and less are drawn at the
    /// lower end.
    fn logarithmic(values: impl Iterator<Item = f64> + Clone) -> Self {
        let logs = values.filter(|value| *value > 0.0).map(f64::log10);
        let (lowest, highest) =
            (logs.clone().fold(f64::INFINITY, f64::min), logs.fold(f64::NEG_INFINITY, f64::max));
        let (lowest, highest) = if lowest > highest { (0.0, 1.0) } else { (lowest, highest) };
        let decades = lowest.floor() as i32..=highest.ceil() as i32;
        let steps: Vec<f64> = decades
            .flat_map(|decade| [1.0_f64, 2.0, 5.0].map(|digit| digit.log10() + f64::from(decade)))
            .collect();
        let low = steps.iter().copied().rfind(|step| *step <= lowest + 1e-9).unwrap_or(lowest);
        let high = steps
            .iter()
            .copied()
            .find(|step| *step > low && *step >= highest - 1e-9)
            .unwrap_or(low + 1.0);
        let inside: Vec<f64> =
            steps.into_iter().filter(|step| (low..=high).contains(step)).collect();
        let decades = inside.iter().copied().filter(|step| (step - step.round()).abs() < 1e-9);
        let marked: Vec<f64> = if inside.len() > 10 { decades.collect() } else { inside };
        let every = marked.len().div_ceil(10);
        let ticks = marked
            .into_iter()
            .step_by(every.max(1))
            .map(|at| (at, trimmed(&number(10_f64.powf(at))).to_owned()))
            .collect();
        Self { low, high, ticks }
    }
}

/// Lines over common axes.
struct Lines<'a> {
    x_title: &'static str,
    unit: &'a str,
    x: Axis,
    y: Axis,
    /// Names, and points in the axes' terms; a point that is not finite interrupts its line.
    series: Vec<(&'a str, Vec<(f64, f64)>)>,
}

/// How many nines a percentile has; infinite for 100.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile.clamp(0.0, 100.0) / 100.0).log10()
}

fn percentiles<'a>(unit: &'a str, series: &'a [Series]) -> Lines<'a> {
    let points = || series.iter().flat_map(|line| &line.points).filter(|point| point.1.is_finite());
    let end = points().map(|point| nines(point.0)).filter(|at| at.is_finite()).fold(1.0, f64::max);
    // The maximum has no place on this scale: it goes a little beyond the last percentile.
    let with_max = points().any(|point| point.0 >= 100.0);
    let high = if with_max { end + end * 0.15 } else { end };
    let labels = ["0", "50", "90", "99", "99.9", "99.99", "99.999", "99.9999"];
    let mut ticks: Vec<(f64, String)> = labels
        .iter()
        .map(|label| (nines(label.parse().unwrap_or(0.0)), (*label).to_owned()))
        .filter(|tick| tick.0 <= end + 1e-6)
        .collect();
    if with_max {
        ticks.push((high, "max".to_owned()));
    }
    let y = Axis::logarithmic(points().map(|point| point.1));
    let low = 10_f64.powf(y.low);
    let drawn = |point: &(f64, f64)| {
        let known = !point.0.is_nan() && point.1.is_finite();
        if known {
            (nines(point.0).min(high), point.1.max(low).log10())
        } else {
            (f64::NAN, f64::NAN)
        }
    };
    let series = series
        .iter()
        .map(|line| (line.name.as_str(), line.points.iter().map(drawn).collect()))
        .collect();
    Lines { x_title: "percentile", unit, x: Axis { low: 0.0, high, ticks }, y, series }
}

fn timeline<'a>(unit: &'a str, series: &'a [Series]) -> Lines<'a> {
    let points = || {
        series
            .iter()
            .flat_map(|line| &line.points)
            .filter(|point| point.0.is_finite() && point.1.is_finite())
    };
    let seconds = points().map(|point| point.0).fold(0.0, f64::max);
    let (x_title, scale) = if seconds > 600.0 { ("minutes", 60.0) } else { ("seconds", 1.0) };
    let x = Axis::linear(points().map(move |point| point.0 / scale), false);
    let y = Axis::linear(points().map(|point| point.1), true);
    let drawn = |point: &(f64, f64)| (point.0 / scale, point.1);
    let series = series
        .iter()
        .map(|line| (line.name.as_str(), line.points.iter().map(drawn).collect()))
        .collect();
    Lines { x_title, unit, x, y, series }
}

/// The inner edges of a plot.
struct Plot {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Lines<'_> {
    /// The drawings in each size, and the key where lines do not carry their names.
    fn draw(&self, title: &str) -> String {
        if !self
            .series
            .iter()
            .flat_map(|line| &line.1)
            .any(|point| point.0.is_finite() && point.1.is_finite())
        {
            return String::new();
        }
        let widest = self.series.iter().map(|line| text_width(line.0)).fold(0.0, f64::max);
        let drawings: String = CANVASES
            .iter()
            .map(|canvas| self.draw_on(canvas, title, widest <= canvas.name_max))
            .collect();
        let entry = |index: usize| {
            let (colour, letter) = (index % COLOURS, letter(index));
            let (sample, name) = (line_path(index, "M4 5H44"), escape(self.series[index].0));
            let sample = format!("<svg viewBox=\"0 0 48 10\" aria-hidden=\"true\">{sample}</svg>");
            format!("<li class=\"s{colour}\">{sample}<b>{letter}</b> <span>{name}</span></li>\n")
        };
        let entries: String = (0..self.series.len()).map(entry).collect();
        let class = if widest <= CANVASES[0].name_max { "key narrow" } else { "key" };
        format!("{drawings}<ul class=\"{class}\">\n{entries}</ul>\n")
    }

    /// One drawing; `named` writes names at the ends of lines, otherwise letters.
    fn draw_on(&self, canvas: &Canvas, title: &str, named: bool) -> String {
        let names: Vec<String> = self
            .series
            .iter()
            .enumerate()
            .map(|(index, line)| if named { line.0.to_owned() } else { letter(index) })
            .collect();
        let widest = |texts: &mut dyn Iterator<Item = &String>| {
            texts.map(|text| text_width(text)).fold(0.0, f64::max)
        };
        let label_room = widest(&mut names.iter()) + 22.0;
        let tick_room = widest(&mut self.x.ticks.iter().map(|tick| &tick.1)) / 2.0 + 2.0;
        let height = canvas.height.max((names.len() + 4) as f64 * LINE);
        let plot = Plot {
            left: (widest(&mut self.y.ticks.iter().map(|tick| &tick.1)) + 8.0).max(tick_room),
            right: canvas.width - label_room.max(tick_room),
            top: LINE * 1.5,
            bottom: height - LINE * 2.5,
        };
        let (mut ends, mut paths) = (Vec::new(), String::new());
        for (index, (name, points)) in self.series.iter().enumerate() {
            let place = |point: &(f64, f64)| {
                let finite = point.0.is_finite() && point.1.is_finite();
                finite.then(|| {
                    (
                        self.x.place(point.0, plot.left, plot.right),
                        self.y.place(point.1, plot.bottom, plot.top),
                    )
                })
            };
            let places: Vec<Option<(f64, f64)>> = points.iter().map(place).collect();
            if let Some(end) = places.iter().rev().find_map(|place| *place) {
                ends.push((index, end));
                let (colour, path) = (index % COLOURS, line_path(index, &path_data(&places)));
                paths +=
                    &format!("<g class=\"s{colour}\"><title>{}</title>{path}</g>", escape(name));
            }
        }
        format!(
            "<svg class=\"chart {}\" viewBox=\"0 0 {} {height}\" role=\"img\" aria-label=\"{}\">{}{paths}{}</svg>\n",
            canvas.class,
            canvas.width,
            escape(title),
            self.draw_axes(&plot),
            draw_ends(&plot, ends, &names)
        )
    }

    fn draw_axes(&self, plot: &Plot) -> String {
        let Plot { left, right, top, bottom } = plot;
        let mut axes = String::new();
        for (at, label) in &self.y.ticks {
            let y = self.y.place(*at, *bottom, *top);
            axes += &format!("<path class=\"grid\" d=\"M{left:.1} {y:.1}H{right:.1}\"/>");
            axes += &text(left - 6.0, y + FONT * 0.35, "end", label);
        }
        // From the right, so that the highest percentiles keep their labels where labels are
        // crowded.
        let mut free_until = f64::INFINITY;
        for (at, label) in self.x.ticks.iter().rev() {
            let (x, half) = (self.x.place(*at, *left, *right), text_width(label) / 2.0);
            axes += &format!("<path class=\"grid\" d=\"M{x:.1} {top:.1}V{:.1}\"/>", bottom + 4.0);
            if x + half <= free_until {
                axes += &text(x, bottom + LINE, "middle", label);
                free_until = x - half - 4.0;
            }
        }
        axes += &format!("<path class=\"axis\" d=\"M{left:.1} {top:.1}V{bottom:.1}H{right:.1}\"/>");
        axes += &text((left + right) / 2.0, bottom + LINE * 2.1, "middle", self.x_title);
        axes + &text(
            left - 6.0 - text_width(self.unit).min(left - 6.0),
            LINE * 0.8,
            "start",
            self.unit,
        )
    }
}

/// The names of lines to the right of their ends, moved apart, each with a leader from its end.
fn draw_ends(plot: &Plot, mut ends: Vec<(usize, (f64, f64))>, names: &[String]) -> String {
    ends.sort_by(|a, b| a.1.1.total_cmp(&b.1.1));
    let mut heights: Vec<f64> = ends.iter().map(|end| end.1.1).collect();
    for i in 1..heights.len() {
        heights[i] = heights[i].max(heights[i - 1] + LINE);
    }
    let mut lowest = plot.bottom;
    for height in heights.iter_mut().rev() {
        *height = height.min(lowest);
        lowest = *height - LINE;
    }
    let draw = |((index, (x, y)), height): (&(usize, (f64, f64)), f64)| {
        let (colour, knee, label_x) = (index % COLOURS, plot.right + 4.0, plot.right + 16.0);
        format!(
            "<g class=\"s{colour}\"><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\
             <path class=\"leader\" d=\"M{x:.1} {y:.1}H{knee:.1}L{:.1} {height:.1}\"/>{}</g>",
            label_x - 3.0,
            text(label_x, height + FONT * 0.35, "start", &names[*index])
        )
    };
    ends.iter().zip(heights).map(draw).collect()
}

/// Path data of a line. Of the points in one column of pixels it keeps the first, the extremes and
/// the last, which look the same.
fn path_data(places: &[Option<(f64, f64)>]) -> String {
    let mut data = String::new();
    for run in places.split(Option::is_none) {
        let run: Vec<(f64, f64)> = run.iter().flatten().copied().collect();
        for (column, points) in run.chunk_by(|a, b| a.0.round() == b.0.round()).enumerate() {
            let index =
                |extreme: Option<(usize, &(f64, f64))>| extreme.map_or(0, |(index, _)| index);
            let lowest = index(points.iter().enumerate().min_by(|a, b| a.1.1.total_cmp(&b.1.1)));
            let highest = index(points.iter().enumerate().max_by(|a, b| a.1.1.total_cmp(&b.1.1)));
            let mut kept = vec![0, lowest, highest, points.len() - 1];
            kept.sort_unstable();
            kept.dedup();
            for (nth, (x, y)) in kept.into_iter().map(|index| points[index]).enumerate() {
                // The line of length 0 shows a point that stands alone.
                data += &if column + nth == 0 {
                    format!("M{x:.1} {y:.1}h0")
                } else {
                    format!("L{x:.1} {y:.1}")
                };
            }
        }
    }
    data
}

fn line_path(index: usize, data: &str) -> String {
    // Where the colours begin again, the dashes are others.
    let dashes = DASHES[(index + index / COLOURS / DASHES.len()) % DASHES.len()];
    format!(
        "<path class=\"line\" stroke-dasharray=\"{}\" d=\"{data}\"/>",
        if dashes.is_empty() { "none" } else { dashes }
    )
}

fn letter(index: usize) -> String {
    char::from(b'A' + (index % 26) as u8).to_string()
}

/// Horizontal bars: names beside them where they fit, otherwise above.
fn draw_bars(canvas: &Canvas, title: &str, unit: &str, bars: &[(String, f64)]) -> String {
    let widest = bars.iter().map(|bar| text_width(&bar.0)).fold(0.0, f64::max);
    let beside = widest <= canvas.name_max;
    let left = if beside { widest + 10.0 } else { 0.0 };
    let value_room =
        bars.iter().map(|bar| text_width(&quantity(bar.1, unit))).fold(0.0, f64::max) + 8.0;
    let room = (canvas.width - left - value_room).max(20.0);
    let longest = bars
        .iter()
        .map(|bar| bar.1)
        .filter(|value| value.is_finite())
        .fold(f64::MIN_POSITIVE, f64::max);
    let (mut y, mut content) = (2.0, String::new());
    for (name, value) in bars {
        if beside {
            content += &text(left - 8.0, y + 8.0 + FONT * 0.35, "end", name);
        } else {
            for line in wrap(name, canvas.width) {
                content += &text(0.0, y + FONT, "start", line);
                y += LINE;
            }
            y += 2.0;
        }
        let length = if *value > 0.0 { (value / longest).min(1.0) * room } else { 0.0 };
        content += &format!(
            "<rect class=\"fill s0\" x=\"{left:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"16\"/>\
             <path class=\"axis\" d=\"M{:.1} {y:.1}v16\"/>",
            left + 0.5
        );
        content +=
            &text(left + length + 6.0, y + 8.0 + FONT * 0.35, "start", &quantity(*value, unit));
        y += if beside { 24.0 } else { 28.0 };
    }
    if content.is_empty() {
        return content;
    }
    let (class, width) = (canvas.class, canvas.width);
    format!(
        "<svg class=\"chart {class}\" viewBox=\"0 0 {width} {y:.0}\" role=\"img\" aria-label=\"{}\">{content}</svg>\n",
        escape(title)
    )
}

fn text(x: f64, y: f64, anchor: &str, content: &str) -> String {
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>", escape(content))
}

/// A width that text is unlikely to exceed in the fonts of common systems.
fn text_width(text: &str) -> f64 {
    let em = |letter: char| match letter {
        'i' | 'j' | 'l' | 't' | 'f' | 'r' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '('
        | ')' | '[' | ']' | ' ' | '/' | '-' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '\u{1100}'.. => 1.0,
        'A'..='Z' => 0.78,
        _ => 0.65,
    };
    text.chars().map(em).sum::<f64>() * FONT
}

/// Lines of at most a width, which is more than a letter's, broken after spaces or, where a word
/// alone is wider, inside it.
fn wrap(mut text: &str, width: f64) -> Vec<&str> {
    let mut lines = Vec::new();
    while !text.is_empty() {
        let too_long =
            |(at, letter): &(usize, char)| text_width(&text[..at + letter.len_utf8()]) > width;
        let full = text.char_indices().find(too_long).map(|(at, _)| at);
        let (line, rest) = text.split_at(
            full.map_or(text.len(), |at| text[..at].rfind(' ').map_or(at, |space| space + 1)),
        );
        lines.push(line);
        text = rest;
    }
    lines
}

/// A whole number, or three significant digits; from 100 on no decimals.
fn number(value: f64) -> String {
    significant(value, 3)
}

/// A whole number, or as many significant digits; thousands are separated by commas.
fn significant(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return "n/a".to_owned();
    }
    let (sign, size) = (if value < 0.0 { "−" } else { "" }, value.abs());
    if size.is_infinite() {
        return format!("{sign}∞");
    }
    if size >= 1e15 || (size > 0.0 && size < 1e-6) {
        return format!("{sign}{size:.2e}");
    }
    // Rounded first: 9.999 has one decimal, as 10.0.
    let rounded: f64 = format!("{size:.*e}", digits - 1).parse().unwrap_or(size);
    let decimals = if size.fract() == 0.0 {
        0
    } else {
        (digits as i32 - 1 - rounded.log10().floor() as i32).max(0)
    };
    let mut shown = format!("{size:.*}", decimals as usize);
    let whole = shown.find('.').unwrap_or(shown.len());
    (1..whole).rev().filter(|at| (whole - at) % 3 == 0).for_each(|at| shown.insert(at, ','));
    format!("{sign}{shown}")
}

/// A number without zeros at its end that only show its precision.
fn trimmed(number: &str) -> &str {
    if number.contains('.') && !number.contains('e') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

fn quantity(value: f64, unit: &str) -> String {
    with_unit(&number(value), unit)
}

/// A number and its unit on the same line.
fn with_unit(number: &str, unit: &str) -> String {
    if unit.is_empty() || number == "n/a" {
        number.to_owned()
    } else {
        format!("{number}\u{a0}{unit}")
    }
}

/// Text between tags; nothing if it is empty.
fn around(before: &str, text: &str, after: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{before}{}{after}", escape(text)) }
}

/// Text as HTML, for content and quoted attributes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

const STYLE: &str = "
:root { color-scheme: light dark; --page: #fff; --text: #1b1f24; --soft: #59626d; --rule: #d5dae0; --zone: #dfe6ee; --met: #0a6b3c;
  --missed: #b3261e; --s0: #0b5fa5; --s1: #b04a00; --s2: #00705a; --s3: #8a3a86; --s4: #765b00; --s5: #444c56; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #14171a; --text: #e6e9ec; --soft: #a3adb8; --rule: #3a424b;
  --zone: #2a323b; --met: #5fd39a; --missed: #ff8f85; --s0: #6cb6ff; --s1: #ff9e64; --s2: #4fd6b0; --s3: #e3a1df; --s4: #e8c547;
  --s5: #c5ccd4; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
main { max-width: 1180px; margin: 0 auto; padding: 24px 20px 48px; } h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; break-after: avoid; } p { margin: .4rem 0; }
code { display: block; padding: .5rem .7rem; background: var(--zone); border-radius: 4px; white-space: pre-wrap;
  font: .88em/1.45 ui-monospace, monospace; }
.finding { font-size: 1.15em; font-weight: 600; } .machine, .legend, .note, small, thead { color: var(--soft); }
.legend, .note, small, thead { font-size: .88em; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .4em .6em; text-align: left; vertical-align: top; font-weight: 400; } thead { border-bottom: 1px solid var(--soft); }
.goals tbody, .rows tbody tr { border-bottom: 1px solid var(--rule); break-inside: avoid; }
.goals tbody th, .goals b, .result { font-weight: 600; } .goals th, .goals td { overflow-wrap: break-word; }
.goals .what, .goals .note td, .goals small { overflow-wrap: anywhere; } .goals small { display: block; } .goals { font-size: .95em; }
.goals .spread, .result { white-space: nowrap; } .goals .note td { padding-top: 0; } .goals .what { width: 27%; }
.goals .against { width: 17%; } .goals .bar { width: 180px; padding-top: .55em; }
.bar svg { display: block; width: 100%; min-width: 150px; } .met .result { color: var(--met); }
.missed .result { color: var(--missed); } .rows { width: auto; min-width: min(100%, 420px); }
.rows td, .rows th + th { text-align: right; white-space: nowrap; }
figure { margin: 0 0 2.2rem; max-width: 760px; break-inside: avoid; } figcaption { font-weight: 600; margin-bottom: .4rem; }
.chart { width: 100%; height: auto; } .wide { display: block; } .narrow { display: none; }
.chart text { font-size: 13px; fill: var(--soft); } .chart g text { fill: currentColor; font-weight: 600; }
.grid { stroke: var(--rule); } .axis { fill: none; stroke: var(--soft); }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.leader { fill: none; stroke: currentColor; stroke-width: .75; } circle, .fill { fill: currentColor; } .zone { fill: var(--zone); }
.met .fill { fill: var(--met); } .missed .fill { fill: var(--missed); } .mark { stroke: var(--text); stroke-width: 2; }
.range { stroke: var(--page); stroke-width: 5; } .range + .range { stroke: var(--text); stroke-width: 2; } .gap { fill: var(--page); }
.edge { fill: none; stroke: var(--text); } .s0 { color: var(--s0); } .s1 { color: var(--s1); } .s2 { color: var(--s2); }
.s3 { color: var(--s3); } .s4 { color: var(--s4); } .s5 { color: var(--s5); }
.key { list-style: none; margin: .3rem 0 0; padding: 0; font-size: .9em; } .key li { display: flex; gap: .5rem; align-items: center; }
.key svg { flex: none; width: 48px; } .key span { color: var(--text); }
@media screen and (max-width: 1120px) {
  .goals { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: .7rem; }
  .goals tbody, .goals td, .goals th { display: block; } .goals thead { display: none; }
  .goals tbody { border: 1px solid var(--rule); border-radius: 6px; padding: .5rem .7rem; }
  .goals tr { display: grid; grid-template-columns: auto minmax(0, 1fr) auto; gap: .15rem .7rem; }
  .goals tr > * { grid-column: 1 / -1; padding: 0; } .goals tr > th { grid-column: 1; } .goals tr > .what { grid-column: 2; }
  .goals tr > .what, .goals tr > .against { width: auto; } .goals tr > .result { grid-column: 3; grid-row: 1; }
  .goals td[data-label] { display: flex; justify-content: space-between; gap: 1rem; text-align: right; }
  .goals td[data-label]::before { content: attr(data-label); color: var(--soft); }
  .goals tr > .bar { width: 100%; padding: .3rem 0; } .goals .note { margin-top: .3rem; }
}
@media screen and (max-width: 700px) {
  main { padding: 16px 12px 32px; } .wide { display: none; } .narrow { display: block; } .chart { max-width: 460px; }
}
@media print {
  body { font-size: 9pt; print-color-adjust: exact; } main { max-width: none; padding: 0; }
  table { font-size: 8pt; } th, td { padding: .25em .35em; } .goals .bar { width: 90px; } .bar svg { min-width: 80px; }
}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        let shown = [
            0.0,
            1.0,
            1.254,
            9.999,
            0.01234,
            99.96,
            1234.6,
            1_234_567.0,
            -0.5,
            f64::NAN,
            f64::INFINITY,
        ]
        .map(number);
        assert_eq!(
            shown,
            ["0", "1", "1.25", "10.0", "0.0123", "100", "1,235", "1,234,567", "−0.500", "n/a", "∞"]
        );
    }

    /// A value that was not measured must not spoil the path of the others.
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
