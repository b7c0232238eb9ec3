//! Numbers as people read them, on the terminal and on the page.

/// The middle one, or the mean of the two in the middle; sorts the values.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.get(values.len() / 2), values.len() % 2) {
        (None, _) => f64::NAN,
        (Some(&upper), 0) => f64::midpoint(values[values.len() / 2 - 1], upper),
        (Some(&middle), _) => middle,
    }
}

/// A whole number, or three significant digits; from 100 on no decimals.
pub(crate) fn number(value: f64) -> String {
    significant(value, 3)
}

/// A whole number, or as many significant digits; commas separate thousands.
pub(super) fn significant(value: f64, digits: usize) -> String {
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
pub(super) fn trimmed(number: &str) -> &str {
    if number.contains('.') && !number.contains('e') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

/// A number and its unit, with a space between that breaks no line.
pub(super) fn with_unit(number: &str, unit: &str) -> String {
    if unit.is_empty() || number == "n/a" {
        number.to_owned()
    } else {
        format!("{number}\u{a0}{unit}")
    }
}

/// A value and its unit.
pub(super) fn quantity(value: f64, unit: &str) -> String {
    with_unit(&number(value), unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_grouped() {
        for (value, shown) in [
            (0.0, "0"),
            (1.0, "1"),
            (1.254, "1.25"),
            (9.999, "10.0"),
            (0.01234, "0.0123"),
            (99.96, "100"),
            (1234.6, "1,235"),
            (1_234_567.0, "1,234,567"),
            (-0.5, "−0.500"),
            (f64::NAN, "n/a"),
            (f64::INFINITY, "∞"),
        ] {
            assert_eq!(number(value), shown);
        }
    }
}
