//! `--name=value` between a keyword and its arguments.

/// Takes the flags off the front.
pub(crate) fn split(text: &str, escape: char) -> Result<(Vec<String>, String), String> {
    let mut flags = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if !rest.starts_with("--") {
            return Ok((flags, rest.to_owned()));
        }
        let (flag, after) = word(rest, escape);
        rest = after;
        // `--` alone ends them.
        if flag == "--" {
            return Ok((flags, rest.trim_start().to_owned()));
        }
        flags.push(flag);
    }
}

/// The first word with its quotes taken away, and what follows it.
fn word(text: &str, escape: char) -> (String, &str) {
    let mut word = String::new();
    let mut quote: Option<char> = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match quote {
            None if character.is_whitespace() => return (word, &text[at..]),
            None if matches!(character, '"' | '\'') => quote = Some(character),
            Some(open) if open == character => quote = None,
            _ if character == escape => word.extend(characters.next().map(|(_, c)| c)),
            _ => word.push(character),
        }
    }
    (word, "")
}

/// The flags of one instruction, taken away one by one.
#[derive(Debug)]
pub(crate) struct Flags {
    given: Vec<(String, Option<String>)>,
    known: Vec<&'static str>,
}

impl Flags {
    pub(crate) fn new(flags: &[String]) -> Self {
        let given = flags
            .iter()
            .map(|flag| {
                let flag = flag.trim_start_matches("--");
                match flag.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (flag.to_owned(), None),
                }
            })
            .collect();
        Self {
            given,
            known: Vec::new(),
        }
    }

    /// All values of a flag that may be repeated.
    pub(crate) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, String> {
        self.known.push(name);
        let mut values = Vec::new();
        for (given, value) in &self.given {
            if given == name {
                match value {
                    Some(value) => values.push(value.clone()),
                    None => return Err(format!("missing a value on flag: --{name}")),
                }
            }
        }
        Ok(values)
    }

    /// The value of a flag.
    pub(crate) fn text(&mut self, name: &'static str) -> Result<Option<String>, String> {
        let mut values = self.texts(name)?;
        match values.len() {
            0 => Ok(None),
            1 => Ok(values.pop()),
            _ => Err(format!("duplicate flag specified: --{name}")),
        }
    }

    /// A flag that is or is not.
    pub(crate) fn switch(&mut self, name: &'static str) -> Result<bool, String> {
        self.known.push(name);
        let mut values = self.given.iter().filter(|(given, _)| given == name);
        let first = values.next();
        if values.next().is_some() {
            return Err(format!("duplicate flag specified: --{name}"));
        }
        match first {
            None => Ok(false),
            Some((_, None)) => Ok(true),
            Some((_, Some(value))) => match value.to_ascii_lowercase().as_str() {
                "true" | "" => Ok(true),
                "false" => Ok(false),
                _ => Err(format!(
                    "expecting boolean value for flag --{name}, not: {value}"
                )),
            },
        }
    }

    /// Refuses those that nobody asked for.
    pub(crate) fn finish(self) -> Result<(), String> {
        match self
            .given
            .iter()
            .find(|(name, _)| !self.known.contains(&name.as_str()))
        {
            Some((name, _)) => Err(format!("unknown flag: --{name}")),
            None => Ok(()),
        }
    }
}
