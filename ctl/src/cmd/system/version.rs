//! `version`.

use crate::client::{API_VERSION, Call};
use crate::failure::{Failure, Outcome};
use crate::flags::Args;
use crate::json::Json;
use crate::session::Session;
use crate::template::{Dot, Template};

pub async fn run(session: &Session, args: &Args) -> Outcome {
    let server = session.client.json(Call::get("/version")).await;
    let api = match &server {
        Ok(_) => session.client.version().await?.to_owned(),
        Err(_) => format!("{}.{}", API_VERSION.0, API_VERSION.1),
    };
    let client = serde_json::json!({
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": api,
        "DefaultAPIVersion": format!("{}.{}", API_VERSION.0, API_VERSION.1),
        "GitCommit": "",
        "GoVersion": "",
        "Os": std::env::consts::OS,
        "Arch": go_architecture(),
        "BuildTime": "",
        "Context": "default",
    });
    let (server, failure) = match server {
        Ok(server) => (server, None),
        Err(failure) => (Json::Null, Some(failure)),
    };
    let mut all = Json::Object(vec![
        ("Client".to_owned(), Json::of(&client)),
        ("Server".to_owned(), server),
    ]);
    if args.text("format").contains("json") {
        leave_out_empty(&mut all, "BuildTime");
    }
    let text = match args.text("format") {
        "" => table(&all),
        "json" => format!("{}\n", all.compact(false)),
        template => {
            let template = Template::parse(template)
                .map_err(|why| Failure::message(format!("template parsing error: {why}")))?;
            let text = template.run(&Dot::of(&all)).map_err(Failure::Message)?;
            format!("{text}\n")
        }
    };
    session.print(&text)?;
    failure.map_or(Ok(()), Err)
}

/// Takes an empty field out of the client's and the server's part, as JSON does not have it.
fn leave_out_empty(all: &mut Json, field: &str) {
    let Json::Object(parts) = all else { return };
    for (_, part) in parts {
        if let Json::Object(fields) = part {
            fields.retain(|(name, value)| name != field || *value != Json::Text(String::new()));
        }
    }
}

/// This machine's architecture as Go calls it.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn table(all: &Json) -> String {
    let client = all.at("Client");
    let mut text = "Client: skep\n".to_owned();
    let line = |text: &mut String, indent: usize, label: &str, value: &str| {
        if !value.is_empty() {
            let label = format!("{label}:");
            text.push_str(&format!(
                "{:indent$}{label:width$}{value}\n",
                "",
                width = 20 - indent - usize::from(indent < 1)
            ));
        }
    };
    let os_arch = |of: &Json| format!("{}/{}", of.str("Os"), of.str("Arch"));
    line(&mut text, 1, "Version", client.str("Version"));
    line(&mut text, 1, "API version", client.str("ApiVersion"));
    line(&mut text, 1, "OS/Arch", &os_arch(client));
    line(&mut text, 1, "Context", client.str("Context"));
    let server = all.at("Server");
    if *server == Json::Null {
        return text;
    }
    text.push_str(&format!("\nServer: {}\n", server.str("Platform.Name")));
    if server.list("Components").is_empty() {
        text.push_str(" Engine:\n");
        line(&mut text, 2, "Version", server.str("Version"));
        let api = format!(
            "{} (minimum version {})",
            server.str("ApiVersion"),
            server.str("MinAPIVersion")
        );
        line(&mut text, 2, "API version", &api);
        line(&mut text, 2, "Go version", server.str("GoVersion"));
        line(&mut text, 2, "Git commit", server.str("GitCommit"));
        line(&mut text, 2, "Built", &built(server.str("BuildTime")));
        line(&mut text, 2, "OS/Arch", &os_arch(server));
        line(
            &mut text,
            2,
            "Experimental",
            &server.bool("Experimental").to_string(),
        );
        return text;
    }
    for component in server.list("Components") {
        text.push_str(&format!(" {}:\n", component.str("Name")));
        line(&mut text, 2, "Version", component.str("Version"));
        let details = component.at("Details");
        if component.str("Name") == "Engine" {
            let api = format!(
                "{} (minimum version {})",
                details.str("ApiVersion"),
                details.str("MinAPIVersion")
            );
            line(&mut text, 2, "API version", &api);
            line(&mut text, 2, "Go version", details.str("GoVersion"));
            line(&mut text, 2, "Git commit", details.str("GitCommit"));
            line(&mut text, 2, "Built", &built(details.str("BuildTime")));
            line(&mut text, 2, "OS/Arch", &os_arch(details));
            line(&mut text, 2, "Experimental", details.str("Experimental"));
        } else {
            for (name, value) in details.text_map("") {
                line(&mut text, 2, &name, &value);
            }
        }
    }
    text
}

/// `Fri May 30 12:07:14 2025`.
fn built(text: &str) -> String {
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => at.strftime("%a %b %e %H:%M:%S %Y").to_string(),
        Err(_) => text.to_owned(),
    }
}
