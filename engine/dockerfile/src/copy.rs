//! `COPY` and `ADD`.

use crate::flags::Flags;
use crate::heredoc;
use crate::lines::Node;
use crate::{json, split};

/// What to bring where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copy {
    /// Paths, patterns and (for `ADD`) URLs.
    pub sources: Vec<String>,
    /// Files whose contents stand in the Dockerfile.
    pub inline: Vec<Inline>,
    pub destination: String,
    /// A stage, its number, or an image, instead of the context.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<String>,
    /// Makes no difference to what is copied.
    pub link: bool,
    /// Keep the directories of the sources.
    pub parents: bool,
    /// Patterns of what not to copy.
    pub exclude: Vec<String>,
    /// `ADD --checksum`.
    pub checksum: Option<String>,
    /// `ADD --keep-git-dir`.
    pub keep_git_dir: bool,
}

/// A file from a here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    pub name: String,
    pub content: String,
    pub expand: bool,
}

pub(crate) fn parse(node: &Node, is_add: bool, escape: char) -> Result<Copy, String> {
    let keyword = if is_add { "ADD" } else { "COPY" };
    let mut flags = Flags::new(&node.flags);
    let mut copy = Copy {
        chown: flags.text("chown")?,
        chmod: flags.text("chmod")?,
        link: flags.switch("link")?,
        exclude: flags.texts("exclude")?,
        ..Copy::default()
    };
    if is_add {
        copy.checksum = flags.text("checksum")?;
        copy.keep_git_dir = flags.switch("keep-git-dir")?;
    } else {
        copy.from = flags.text("from")?;
        copy.parents = flags.switch("parents")?;
    }
    flags.finish()?;
    let mut words = match json::list(&node.rest)? {
        Some(words) => words,
        None => node.rest.split_whitespace().map(str::to_owned).collect(),
    };
    if words.is_empty() {
        return Err(format!("{keyword} requires at least one argument"));
    }
    let destination = words.pop().unwrap_or_default();
    if words.is_empty() {
        return Err(format!(
            "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
        ));
    }
    if heredoc::read(&destination, escape).is_some() {
        return Err(format!(
            "{keyword} cannot accept a heredoc as a destination"
        ));
    }
    copy.destination = destination;
    for word in words {
        let document = heredoc::read(&word, escape)
            .and_then(|read| node.heredocs.iter().find(|found| found.name == read.name));
        match document {
            Some(document) => copy.inline.push(Inline {
                name: document.name.clone(),
                content: document.text(),
                expand: document.expand,
            }),
            None => copy.sources.push(word),
        }
    }
    Ok(copy)
}

/// Words of `VOLUME`, which has the same two forms.
pub(crate) fn list(text: &str, escape: char) -> Result<Vec<String>, String> {
    Ok(match json::list(text)? {
        Some(words) => words,
        None => split::words(text, escape),
    })
}
