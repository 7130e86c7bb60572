use super::*;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

/// The moments after `from`, as many as are expected.
fn check(expression: &str, zone: &str, from: &str, expected: &[&str]) {
    let timetable = Timetable::parse(expression, zone).unwrap();
    let mut moments = Vec::new();
    let mut last = at(from);
    for _ in expected {
        last = timetable.next_after(last).unwrap();
        moments.push(last.to_string());
    }
    assert_eq!(moments, expected, "{expression} in {zone}");
}

#[test]
fn fields_and_nicknames_name_their_moments() {
    check(
        "*/5 * * * *",
        "UTC",
        "2026-11-29T10:01:30.5Z",
        &["2026-11-29T10:05:00Z", "2026-11-29T10:10:00Z"],
    );
    check(
        "0 22 * * MON-fri",
        "Asia/Tokyo",
        "2026-11-27T12:00:00Z",
        &["2026-11-27T13:00:00Z", "2026-11-30T13:00:00Z"],
    );
    check(
        "@weekly",
        "UTC",
        "2026-11-29T00:00:00Z",
        &["2026-12-06T00:00:00Z"],
    );
    check(
        "@MIDNIGHT",
        "UTC",
        "2026-11-29T00:00:00Z",
        &["2026-11-30T00:00:00Z"],
    );
    // Both days are limited: either will do.
    check(
        "0 0 13 * 5",
        "UTC",
        "2026-11-10T00:00:00Z",
        &["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"],
    );
    check(
        "0 12 L * *",
        "UTC",
        "2026-01-31T12:00:00Z",
        &["2026-02-28T12:00:00Z", "2026-03-31T12:00:00Z"],
    );
    check(
        "0 9 * * 5#2",
        "UTC",
        "2026-11-29T00:00:00Z",
        &["2026-12-11T09:00:00Z"],
    );
    check(
        "0 0 29 2 *",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
    );
}

#[test]
fn a_time_that_does_not_exist_is_the_moment_of_the_change() {
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
    );
    // Two of them are one moment.
    check(
        "15,45 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-30T00:15:00Z"],
    );
    // Midnight itself is left out.
    check(
        "@daily",
        "America/Santiago",
        "2026-09-05T12:00:00Z",
        &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
    );
    // A whole day is.
    check(
        "0 12 30 12 *",
        "Pacific/Apia",
        "2011-06-01T00:00:00Z",
        &["2011-12-30T10:00:00Z", "2012-12-29T22:00:00Z"],
    );
}

#[test]
fn a_time_that_exists_twice_is_the_first() {
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
    );
    // Asked in between, the second is none.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-25T01:10:00Z",
        &["2026-10-26T01:30:00Z"],
    );
}

#[test]
fn what_follows_the_clock_goes_on_through_changes() {
    check(
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-03-29T00:45:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z"],
    );
    check(
        "*/30 * * * *",
        "Europe/Berlin",
        "2026-10-25T00:15:00Z",
        &[
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:00:00Z",
        ],
    );
    check(
        "30 * * * *",
        "Europe/Berlin",
        "2026-10-25T00:00:00Z",
        &[
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:30:00Z",
        ],
    );
}

/// What a clock in `zone` shows at `moment`, in seconds as if it were UTC.
fn shown(zone: &TimeZone, moment: i64) -> i64 {
    let moment = jiff::Timestamp::from_second(moment).unwrap();
    moment.as_second() + i64::from(zone.to_offset(moment).seconds())
}

/// Tries every minute of some days, which knows nothing of changes of clocks.
#[test]
fn every_minute_around_changes_of_the_clock_is_named_or_not_as_it_should() {
    for (name, start) in CHANGES {
        every_minute_from(name, at(start).0 / 1_000_000_000);
    }
}

const CHANGES: [(&str, &str); 9] = [
    ("Europe/Berlin", "2026-03-28T12:00:00Z"),
    ("Europe/Berlin", "2026-10-24T12:00:00Z"),
    ("America/New_York", "2026-03-07T12:00:00Z"),
    ("America/New_York", "2026-10-31T12:00:00Z"),
    ("America/Santiago", "2026-09-05T12:00:00Z"),
    ("America/Santiago", "2026-04-04T12:00:00Z"),
    // Half an hour.
    ("Australia/Lord_Howe", "2026-10-03T06:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T06:00:00Z"),
    ("UTC", "2026-04-04T06:00:00Z"),
];

fn every_minute_from(name: &str, start: i64) {
    let minutes = |hours: &[i64], minutes: &[i64]| {
        let (hours, minutes) = (hours.to_vec(), minutes.to_vec());
        move |clock: i64| {
            let (hour, minute) = (clock / 3600 % 24, clock / 60 % 60);
            hours.contains(&hour) && minutes.contains(&minute)
        }
    };
    type Matches = Box<dyn Fn(i64) -> bool>;
    let every = |step: usize, end: i64| (0..end).step_by(step).collect::<Vec<i64>>();
    let by_clock: [(&str, Matches); 3] = [
        (
            "*/7 * * * *",
            Box::new(minutes(&every(1, 24), &every(7, 60))),
        ),
        (
            "*/20 1-3 * * *",
            Box::new(minutes(&[1, 2, 3], &every(20, 60))),
        ),
        ("15 */2 * * *", Box::new(minutes(&every(2, 24), &[15]))),
    ];
    let by_calendar: [(&str, Matches); 3] = [
        ("30 2 * * *", Box::new(minutes(&[2], &[30]))),
        (
            "0,10,50 0-3 * * *",
            Box::new(minutes(&[0, 1, 2, 3], &[0, 10, 50])),
        ),
        ("0 0 * * *", Box::new(minutes(&[0], &[0]))),
    ];
    let zone = TimeZoneDatabase::bundled().get(name).unwrap();
    let end = start + 36 * 3600;
    let moments = || (start + 60..=end).step_by(60);
    let told = |expression: &str| {
        let timetable = Timetable::parse(expression, name).unwrap();
        let mut told = Vec::new();
        let mut last = Timestamp::from_secs(start);
        while let Some(next) = timetable.next_after(last) {
            if next.0 / 1_000_000_000 > end {
                break;
            }
            told.push(next.0 / 1_000_000_000);
            last = next;
        }
        told
    };
    for (expression, matches) in &by_clock {
        let wanted: Vec<i64> = moments()
            .filter(|one| matches(shown(&zone, *one)))
            .collect();
        assert_eq!(told(expression), wanted, "{expression} in {name}");
    }
    for (expression, matches) in &by_calendar {
        // Each matching time of the calendar: the first moment at which a clock has come to it.
        let clocks = (shown(&zone, start) + 60..=shown(&zone, end)).step_by(60);
        let mut wanted: Vec<i64> = clocks
            .filter(|clock| matches(*clock))
            .filter_map(|clock| moments().find(|one| shown(&zone, *one) >= clock))
            .collect();
        wanted.dedup();
        assert_eq!(told(expression), wanted, "{expression} in {name}");
    }
}

#[test]
fn what_was_due_is_counted_and_the_latest_is_found_after_years() {
    let due = |expression: &str, after: &str, now: &str| {
        let timetable = Timetable::parse(expression, "UTC").unwrap();
        timetable
            .due(at(after), at(now))
            .map(|due| (due.latest.to_string(), due.count))
    };
    let told = |latest: &str, count| Some((latest.to_owned(), count));
    let noon = "2026-11-29T12:00:00Z";
    assert_eq!(due("* * * * *", noon, "2026-11-29T12:00:59Z"), None);
    assert_eq!(due("* * * * *", noon, noon), None);
    assert_eq!(
        due("* * * * *", noon, "2026-11-29T12:01:00Z"),
        told("2026-11-29T12:01:00Z", 1)
    );
    assert_eq!(
        due("* * * * *", noon, "2026-11-29T12:05:10Z"),
        told("2026-11-29T12:05:00Z", 5)
    );
    // A clock that was put back.
    assert_eq!(due("* * * * *", noon, "2026-11-29T11:00:00Z"), None);
    assert_eq!(
        due("* * * * *", "2023-01-01T00:00:00Z", noon),
        told(noon, COUNTED_MAX)
    );
    assert_eq!(
        due("*/10 3 * * 0", "1970-01-01T00:00:00Z", noon),
        told("2026-11-29T03:50:00Z", COUNTED_MAX)
    );
    assert_eq!(
        due("0 3 1 1 *", "2023-01-01T04:00:00Z", noon),
        told("2026-01-01T03:00:00Z", 3)
    );
}

#[test]
fn mistakes_are_told_with_their_place() {
    let wrong = |expression: &str| Timetable::parse(expression, "UTC").unwrap_err().to_string();
    assert_eq!(
        wrong("61 * * * *"),
        "minute `61` is none: 0 to 59, `*`, lists (1,2), ranges (1-5) and steps (*/5)"
    );
    for (expression, part) in [
        ("* 24 * * *", "hour `24`"),
        ("* * 0 * *", "day of the month `0`"),
        ("* * 32 * *", "day of the month `32`"),
        ("* * * 13 *", "month `13`"),
        ("* * * FOO *", "month `FOO`"),
        ("* * * * 8", "day of the week `8`"),
        ("MON * * * *", "minute `MON`"),
        ("5-1 * * * *", "minute `5-1`"),
        ("*/0 * * * *", "minute `*/0`"),
        ("1,,2 * * * *", "minute `1,,2`"),
        ("-1 * * * *", "minute `-1`"),
        ("* * ? * *", "day of the month `?`"),
        ("* * * * +1", "day of the week `+1`"),
        ("\u{0661} * * * *", "minute `\u{0661}`"),
    ] {
        assert!(wrong(expression).starts_with(part), "{}", wrong(expression));
    }
    assert_eq!(
        wrong("* * * * * *"),
        "`* * * * * *` has 6 fields instead of five: minute, hour, day of the month, month, day of the week"
    );
    assert!(wrong("").contains("has 0 fields"));
    assert!(wrong("@reboot").starts_with("`@reboot` is not one of @hourly"));
    assert!(wrong("@every 5m").starts_with("`@every 5m` is not one of"));
    assert!(wrong("CRON_TZ=UTC * * * * *").contains("6 fields"));
    assert!(wrong(&"1,".repeat(200)).contains("256 bytes"));
    for never in ["0 0 30 2 *", "0 0 31 4,6 *"] {
        assert!(wrong(never).contains("never comes"), "{}", wrong(never));
    }
    for zone in ["Europe/Bielefeld", "", "local", "../etc/passwd", "\u{00fc}"] {
        let error = Timetable::parse("@daily", zone).unwrap_err();
        assert_eq!(
            error,
            TimetableError::Zone {
                given: zone.to_owned()
            }
        );
    }
    assert!(Timetable::parse("@daily", "europe/berlin").is_ok());
}
