//! A report as one HTML page with its styles and charts inside: it loads nothing and runs nothing.

use super::chart::{escape, figure};
use super::numbers::{number, quantity, significant, trimmed, with_unit};
use super::{Goal, Report, Row};

const STYLE: &str = include_str!("page.css");
/// Width of a goal's bar.
const BAR: f64 = 200.0;
/// Where the goal is on its bar.
const MARK: f64 = 80.0;

const BAR_LEGEND: &str = "<p class=\"legend\">The upright line marks the goal and the shaded side \
    is where it is met. The thin line at the end of a bar runs from the lowest to the highest \
    ratio. A cut bar goes on beyond the scale.</p>\n";
const BAR_CUT: &str = "<path class=\"gap\" d=\"M178 22l8-20h7l-8 20z\"/>\
    <path class=\"edge\" d=\"M178 22l8-20M185 22l8-20\"/>";

/// The whole page.
pub(crate) fn page(report: &Report) -> String {
    let title = escape(&report.title);
    let (peers, goals): (Vec<&Goal>, Vec<&Goal>) =
        report.goals.iter().partition(|goal| goal.peer.is_some());
    let charts: String = report.charts.iter().map(figure).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n{}\
         <p class=\"machine\">{}</p>\n<p><code>{}</code></p>\n{}{}{}{}</main>\n</body>\n</html>\n",
        finding(&report.goals),
        escape(&report.machine.line()),
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
        "<tbody class=\"{class}\">\n<tr><th scope=\"row\">{}</th>\
         <td class=\"what\">{peer}{}</td><td data-label=\"Ours\">{}</td>\
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
        "<svg viewBox=\"0 0 {BAR} 24\" role=\"img\" aria-label=\"{}\">\
         <rect class=\"zone\" x=\"{zone}\" y=\"1\" width=\"{zone_width}\" height=\"22\"/>\
         <rect class=\"fill\" x=\"0\" y=\"6\" width=\"{shown:.1}\" height=\"12\"/>{spread}{cut}\
         <path class=\"mark\" d=\"M{MARK} 0V24\"/></svg>",
        escape(label)
    )
}

/// Text between tags; nothing if it is empty.
fn around(before: &str, text: &str, after: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{before}{}{after}", escape(text)) }
}
