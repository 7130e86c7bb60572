//! `--ulimit name=soft[:hard]`.

use skep_model::container::Ulimit;

use crate::human;

const NAMES: [&str; 15] = [
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

/// One limit; without a hard one the soft one counts for both.
pub fn parse(value: &str) -> Result<Ulimit, String> {
    let (name, limits) = value
        .split_once('=')
        .ok_or_else(|| format!("invalid ulimit argument: {value}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| {
        text.parse::<i64>().map_err(|_| {
            format!(
                "strconv.ParseInt: parsing {}: invalid syntax",
                human::quote(text)
            )
        })
    };
    let parts: Vec<&str> = limits.split(':').collect();
    let (soft, hard) = match parts[..] {
        [both] => (number(both)?, number(both)?),
        [soft, hard] => (number(soft)?, number(hard)?),
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!(
            "ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"
        ));
    }
    Ok(Ulimit {
        name: name.to_owned(),
        soft,
        hard,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let read = |value: &str| parse(value).map(|u| (u.name, u.soft, u.hard));
        assert_eq!(read("nofile=1024"), Ok(("nofile".to_owned(), 1024, 1024)));
        assert_eq!(
            read("nofile=1024:2048"),
            Ok(("nofile".to_owned(), 1024, 2048))
        );
        assert_eq!(read("memlock=-1:-1"), Ok(("memlock".to_owned(), -1, -1)));
        for (value, error) in [
            ("x", "invalid ulimit argument: x"),
            ("foo=1", "invalid ulimit type: foo"),
            (
                "nofile=5:1",
                "ulimit soft limit must be less than or equal to hard limit: 5 > 1",
            ),
            (
                "nofile=a",
                "strconv.ParseInt: parsing \"a\": invalid syntax",
            ),
            (
                "nofile=1:2:3",
                "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
            ),
        ] {
            assert_eq!(read(value).unwrap_err(), error, "{value}");
        }
    }
}
