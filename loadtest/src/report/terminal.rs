//! A report for the terminal, and progress before it.

use super::numbers::{number, quantity};
use super::{Goal, Report};
use indicatif::{ProgressBar, ProgressStyle};
use std::fmt::Write;

/// All lines.
pub(super) fn text(report: &Report) -> String {
    let mut text = report.machine.line() + "\n";
    if !report.goals.is_empty() {
        let titles = ["", "", "ours", "floor", "ratio", "spread", "goal", ""];
        text += &columns(titles.map(str::to_owned));
    }
    report.goals.iter().for_each(|goal| text += &columns(cells(goal)));
    for row in &report.rows {
        let _ = writeln!(text, "{:<52} {}", row.name, quantity(row.value, row.unit));
    }
    text
}

fn columns([id, what, ours, floor, ratio, spread, goal, met]: [String; 8]) -> String {
    let line = format!(
        "{id:<4} {what:<62} {ours:>16} {floor:>16} {ratio:>9} {spread:<18} {goal:>10} {met}"
    );
    line.trim_end().to_owned() + "\n"
}

fn cells(goal: &Goal) -> [String; 8] {
    let peer = goal.peer.as_ref().map_or(String::new(), |peer| format!(": {peer}"));
    let spread = if goal.low == goal.high {
        String::new()
    } else {
        format!("({} to {})", number(goal.low), number(goal.high))
    };
    [
        goal.id.to_owned(),
        goal.what.clone() + &peer,
        quantity(goal.ours, goal.unit),
        goal.floor.map_or(String::new(), |floor| quantity(floor, goal.unit)),
        number(goal.ratio),
        spread,
        format!("{} {}", if goal.at_least { "≥" } else { "≤" }, number(goal.goal)),
        if goal.met { "met" } else { "NOT MET" }.to_owned(),
    ]
}

/// A bar of progress.
pub(crate) fn bar(length: u64, template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("templates are constants");
    ProgressBar::new(length).with_style(style)
}
