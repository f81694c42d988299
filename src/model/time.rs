//! How moments and lengths of time are written for people and for programs.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment as RFC 3339 writes it, in UTC and whole seconds: `2026-11-21T08:30:00Z`.
pub fn rfc3339(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that a leap day is the last of its year; 400 years have 146,097 days.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}

/// A moment in whole seconds, as gitolite names what is in its trash: `2026-11-21_08:30:00`, here in UTC. No repository's
/// name holds a colon, so one of these below a repository's name is never taken for another repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(u64);

impl Stamp {
    pub fn new(at: SystemTime) -> Self {
        Self(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    /// Seconds since 1970.
    pub fn of_seconds(seconds: u64) -> Self {
        Self(seconds)
    }

    pub fn seconds(self) -> u64 {
        self.0
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (date, time) = text.split_once('_')?;
        let number = |text: &str| text.parse::<u64>().ok();
        let mut date = date.splitn(3, '-').map(number);
        let mut time = time.splitn(3, ':').map(number);
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 {
            return None;
        }
        // Years from March, as in `rfc3339`.
        let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
        let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
        let stamp = Self(days * 86_400 + hour * 3_600 + minute * 60 + second);
        // What is no date, or is written otherwise, does not come back as it was.
        (stamp.to_string() == text).then_some(stamp)
    }

    /// As OpenSSH writes when a key expires (sshd(8), `expiry-time`): `20261201`, `202612011530` or `20261201153000`,
    /// with or without a `Z`. Always UTC here, for nodes need not agree about another zone.
    pub fn parse_compact(text: &str) -> Option<Self> {
        let digits = text.strip_suffix(['Z', 'z']).unwrap_or(text);
        if !digits.bytes().all(|b| b.is_ascii_digit()) || ![8, 12, 14].contains(&digits.len()) {
            return None;
        }
        let d = format!("{digits:0<14}");
        Self::parse(&format!("{}-{}-{}_{}:{}:{}", &d[..4], &d[4..6], &d[6..8], &d[8..10], &d[10..12], &d[12..]))
    }

    /// As [`Stamp::parse_compact`] reads it: `20261201Z` for midnight, else `20261201153000Z`.
    pub fn compact(self) -> String {
        let digits: String = self.to_string().chars().filter(char::is_ascii_digit).collect();
        format!("{}Z", digits.strip_suffix("000000").unwrap_or(&digits))
    }

    pub fn moment(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0)
    }

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(rfc3339(self.moment()).trim_end_matches('Z').replace('T', "_").as_str())
    }
}

/// A length of time in the one unit that tells enough: `4 s`, `12 min`, `3 h`, `9 d`.
pub fn in_words(length: Duration) -> String {
    match length.as_secs() {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// A short length of time for people: `44 ms`, `1.4 s`; a long one as [`in_words`] has it.
pub fn in_brief(length: Duration) -> String {
    match length.as_millis() {
        ms @ 0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{:.1} s", length.as_secs_f64()),
        _ => in_words(length),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        // From date(1), `date -u -d @N +%FT%TZ`.
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59Z");
        assert_eq!(at(1_795_252_200), "2026-11-21T09:10:00Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
    }

    #[test]
    fn stamps() {
        for seconds in [0, 951_782_399, 951_782_400, 1_709_251_199, 1_795_252_200, 4_107_542_400] {
            let stamp = Stamp::new(UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(Stamp::parse(&stamp.to_string()), Some(stamp));
        }
        assert_eq!(Stamp(1_795_252_200).next().to_string(), "2026-11-21_09:10:01");
        for bad in
            ["", "_", "2026-11-21", "2026-02-30_00:00:00", "2026-1-1_00:00:00", "2026-11-21_24:00:00", "x-1-1_0:0:0"]
        {
            assert_eq!(Stamp::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn openssh_moments() {
        let read = |text| Stamp::parse_compact(text).map(|stamp| stamp.to_string());
        for (text, wanted) in [
            ("20261201", "2026-12-01_00:00:00"),
            ("20261201Z", "2026-12-01_00:00:00"),
            ("202612011530", "2026-12-01_15:30:00"),
            ("20261201153059Z", "2026-12-01_15:30:59"),
        ] {
            assert_eq!(read(text).as_deref(), Some(wanted));
        }
        for bad in
            ["", "Z", "2026", "20261301", "20260230", "2026120124", "202612012460", "2026-12-01", "2026120115300"]
        {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        let again = |text| Stamp::parse_compact(text).expect("a moment").compact();
        assert_eq!([again("20261201"), again("202612011530")], ["20261201Z", "20261201153000Z"]);
    }

    #[test]
    fn lengths() {
        let words = |seconds| in_words(Duration::from_secs(seconds));
        let said = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(words);
        assert_eq!(said, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
    }
}
