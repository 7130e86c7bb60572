//! `image ls`.

use std::collections::BTreeMap;

use skep_model::Timestamp;

use crate::client::Call;
use crate::cmd::task::now;
use crate::failure::Outcome;
use crate::filter::Filters;
use crate::flags::Args;
use crate::human;
use crate::json::Json;
use crate::session::Session;
use crate::table::{self, Listing, Row};

const COLUMNS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("VirtualSize", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
];

const IMAGES: Listing = Listing {
    kind: "*formatter.imageContext",
    columns: COLUMNS,
    table: "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}",
    quiet: "{{.ID}}",
    raw: &[
        ("repository", "Repository"),
        ("tag", "Tag"),
        ("image_id", "ID"),
        ("created_at", "CreatedAt"),
        ("virtual_size", "Size"),
    ],
};

const IMAGES_WITH_DIGESTS: Listing = Listing {
    kind: "*formatter.imageContext",
    columns: COLUMNS,
    table: "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}\t{{.Size}}",
    quiet: "{{.ID}}",
    raw: &[
        ("repository", "Repository"),
        ("tag", "Tag"),
        ("image_id", "ID"),
        ("created_at", "CreatedAt"),
        ("virtual_size", "Size"),
    ],
};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let mut filters = Filters::of(args)?;
    if let Some(name) = args.positionals().first() {
        filters.add("reference", name);
    }
    let call = Call::get("/images/json")
        .query_if("all", args.flag("all"))
        .query_text("filters", &filters.to_query());
    let images = session.client.json(call).await?;
    let digests = args.flag("digests");
    let format = crate::cmd::format_of(session, args, "imagesFormat");
    let by_digest = digests || format.contains("{{.Digest}}");
    let cut = !args.flag("no-trunc");
    let mut rows = Vec::new();
    for image in images.list("") {
        for name in names(image, by_digest) {
            rows.push(row(image, name, cut));
        }
    }
    let listing = if digests {
        &IMAGES_WITH_DIGESTS
    } else {
        &IMAGES
    };
    let quiet = args.flag("quiet");
    let text = table::render(listing, &format, quiet, rows)?;
    session.print(&text)
}

const NONE: &str = "<none>";

struct Name {
    repository: String,
    tag: String,
    digest: String,
}

/// One entry for each tag; with digests one for each tag and digest of a repository.
fn names(image: &Json, by_digest: bool) -> Vec<Name> {
    let mut tags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut digests: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in image.texts("RepoTags") {
        if let Some((repository, tag)) = name.rsplit_once(':')
            && repository != NONE
        {
            tags.entry(repository).or_default().push(tag);
        }
    }
    for name in image.texts("RepoDigests") {
        if let Some((repository, digest)) = name.split_once('@')
            && repository != NONE
        {
            digests.entry(repository).or_default().push(digest);
        }
    }
    let mut names = Vec::new();
    let name = |repository: &str, tag: &str, digest: &str| Name {
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: digest.to_owned(),
    };
    for (repository, tags) in &tags {
        let of_repository = digests.remove(repository).unwrap_or_default();
        for tag in tags {
            match &of_repository[..] {
                [] => names.push(name(repository, tag, NONE)),
                _ if !by_digest => names.push(name(repository, tag, NONE)),
                found => names.extend(found.iter().map(|digest| name(repository, tag, digest))),
            }
        }
    }
    for (repository, found) in digests {
        if by_digest {
            names.extend(found.iter().map(|digest| name(repository, NONE, digest)));
        } else {
            names.push(name(repository, NONE, ""));
        }
    }
    if names.is_empty() {
        names.push(name(NONE, NONE, NONE));
    }
    names
}

fn row(image: &Json, name: Name, cut: bool) -> Row {
    let id = image.str("Id");
    let created = image.int("Created");
    let since = if created > 0 {
        human::ago(Timestamp::from_secs(created), now())
    } else {
        String::new()
    };
    let maybe = |field: &str| match image.float(field) {
        bytes if bytes < 0.0 => "N/A".to_owned(),
        bytes => human::size(bytes),
    };
    let (size, shared) = (image.float("Size"), image.float("SharedSize"));
    let unique = if shared < 0.0 {
        "N/A".to_owned()
    } else {
        human::size(size - shared)
    };
    let containers = match image.int("Containers") {
        count if count < 0 => "N/A".to_owned(),
        count => count.to_string(),
    };
    Row::new([
        ("ID", if cut { human::short_id(id) } else { id }.into()),
        ("Repository", name.repository.into()),
        ("Tag", name.tag.into()),
        ("Digest", name.digest.into()),
        ("CreatedSince", since.into()),
        (
            "CreatedAt",
            if created > 0 {
                human::local_time(created)
            } else {
                String::new()
            }
            .into(),
        ),
        ("Size", human::size3(size).into()),
        ("VirtualSize", human::size(size).into()),
        ("SharedSize", maybe("SharedSize").into()),
        ("UniqueSize", unique.into()),
        ("Containers", containers.into()),
    ])
}
