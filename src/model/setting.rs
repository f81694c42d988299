//! How settings are written: durations with a unit, and words that are parsed at once.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// For `deserialize_with`: a string that a type's own parser reads.
pub fn parsed<'de, D: Deserializer<'de>, T: std::str::FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<T, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}

/// A duration with its unit, for `deserialize_with`: `"200ms"`, `"20s"`, `"10m"`, `"1h"`, `"7d"`; whole numbers above 0.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// A duration with its unit, as people write it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    let total = number.parse::<u64>().ok().and_then(|number| number.checked_mul(millis)).filter(|total| *total > 0);
    total.map(Duration::from_millis).ok_or_else(|| {
        format!("'{text}' is no duration; write a whole number above 0 and a unit, as \"200ms\", \"20s\", \"10m\", \"1h\" or \"7d\"")
    })
}

/// Bytes with a unit, for `deserialize_with`: `"0"`, `"512KiB"`, `"20MiB"`, `"1GiB"`; whole numbers.
pub fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    parse_size(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let bytes = match unit {
        "KiB" => Some(1 << 10),
        "MiB" => Some(1 << 20),
        "GiB" => Some(1 << 30),
        "" if number == "0" => Some(0),
        _ => None,
    };
    bytes.and_then(|bytes: u64| number.parse::<u64>().ok()?.checked_mul(bytes)).ok_or_else(|| {
        format!("'{text}' is no size; write a whole number and a unit, as \"512KiB\", \"20MiB\" or \"1GiB\", or \"0\"")
    })
}

/// A number of bytes as people read it: `512 B`, `12.3 KiB`, `4.0 GiB`.
pub fn size_in_words(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(*unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Bytes in a second, for `deserialize_with`: `"512KiB/s"`, `"20MiB/s"`; above 0. Without the setting there is no limit.
pub fn rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    parse_rate(&String::deserialize(deserializer)?).map(Some).map_err(D::Error::custom)
}

fn parse_rate(text: &str) -> Result<u64, String> {
    let bytes = text.strip_suffix("/s").and_then(|size| parse_size(size).ok()).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| {
        format!("'{text}' is no bandwidth; write a whole number above 0, a unit and /s, as \"512KiB/s\" or \"20MiB/s\"")
    })
}

/// A share, for `deserialize_with`: `"50%"`, whole, 0 to 100.
pub fn percent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    parse_percent(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

fn parse_percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').filter(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let share = number.and_then(|n| n.parse().ok()).filter(|share| *share <= 100);
    share.ok_or_else(|| format!("'{text}' is no share; write a whole number up to 100 and a %, as \"50%\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!((parse_size("0"), parse_size("20MiB")), (Ok(0), Ok(20 << 20)));
        for bad in ["", "5", "1.5GiB", "1 GiB", "1GB", "-1KiB", "99999999999GiB", "99999999999999999999KiB"] {
            assert!(parse_size(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rates() {
        assert_eq!((parse_rate("512KiB/s"), parse_rate("20MiB/s")), (Ok(512 << 10), Ok(20 << 20)));
        for bad in ["", "0", "0/s", "0KiB/s", "20MiB", "20 MiB/s", "20MB/s", "20Mbit/s", "/s", "-1KiB/s"] {
            assert!(parse_rate(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shares() {
        assert_eq!((parse_percent("0%"), parse_percent("100%")), (Ok(0), Ok(100)));
        for bad in ["", "%", "50", "101%", "-1%", "+5%", "5 %"] {
            assert!(parse_percent(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("200ms"), Ok(Duration::from_millis(200)));
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(604_800)));
        for bad in ["", "s", "0s", "1.5s", "-1s", "1 s", "1w", "99999999999999999999s", "18446744073709551615d"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
