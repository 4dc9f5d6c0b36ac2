//! Durations as people type them: `90s`, `15m`, `24h`, `7d`.

use std::time::Duration;

/// The longest duration that is accepted: ten years, beyond which it is a typing error.
const LONGEST_S: u64 = 10 * 365 * 86_400;

/// Parses a whole number and a unit (`s`, `m`, `h`, `d`).
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let explain = || format!("`{text}` is no duration: write a number and s, m, h or d, like 24h");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_not_a_number| explain())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(explain()),
    };
    match number.checked_mul(seconds) {
        Some(0) => Err("a duration of nothing is over before it begins".to_owned()),
        Some(seconds @ ..=LONGEST_S) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("`{text}` is longer than ten years")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_and_a_unit_make_a_duration() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn nonsense_is_explained() {
        for text in ["", "h", "1", "1w", "-1s", "1.5h", "0s", "99999999999999999999d", "4000d"] {
            assert!(parse(text).is_err(), "{text} was accepted");
        }
    }
}
