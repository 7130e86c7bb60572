//! The demo: a stack of two services on all nodes, shown converging and answering.

use std::collections::BTreeSet;
use std::time::Duration;

use hyper::Method;
use serde_json::Value;
use skep_compose::{Options, Source, load};
use tokio::time::{Instant, sleep};

use super::DevError;
use super::client::{call, page};
use super::plan::Plan;

const STACK: &str = "hello";
const COMPOSE: &str = include_str!("../../../deploy/examples/hello.yml");
const SECRET: &str = include_str!("../../../deploy/examples/hello-secret.txt");
const CONFIG: &str = include_str!("../../../deploy/examples/hello-config.txt");
const PORT: u16 = 8080;
/// How long the stack may take to converge.
const CONVERGE: Duration = Duration::from_secs(60);
/// How long a page may take.
const PAGE: Duration = Duration::from_secs(5);
/// Replicas of the service with the page.
const REPLICAS: usize = 3;

/// Deploys the stack, waits for it, asks the published port on every node.
pub async fn run(plan: &Plan) -> Result<(), DevError> {
    let began = Instant::now();
    let socket = plan.socket(plan.first());
    println!("\nDeploying deploy/examples/hello.yml as stack {STACK}");
    let stack = read_stack()?;
    let answer = call(
        &socket,
        Method::POST,
        &format!("/skep/v1/stacks/{STACK}"),
        Some(&stack),
    )
    .await?;
    for action in answer["Actions"].as_array().into_iter().flatten() {
        println!("  {}", action.as_str().unwrap_or_default());
    }
    converge(plan).await?;
    println!("Converged after {:.1} s\n", began.elapsed().as_secs_f64());
    println!("Asking port {PORT} on every node, {REPLICAS} times each:");
    let mut tasks = BTreeSet::new();
    for node in &plan.nodes {
        for answer in ask_in_turn(node.address).await? {
            println!(
                "  {:<15} -> {} on {}, caller seen as {}",
                node.address.to_string(),
                answer.task,
                answer.node,
                answer.client
            );
            tasks.insert(answer.task);
        }
    }
    println!(
        "\n{} tasks answered. Try: curl http://{}:{PORT}/",
        tasks.len(),
        plan.first().address
    );
    Ok(())
}

/// What the page says.
struct Answer {
    task: String,
    node: String,
    client: String,
}

/// Asks a node once for every replica. Tasks that have just begun to run are in every node's
/// balancer a moment later, so it asks again until all answer in turn, or the wait is over.
async fn ask_in_turn(address: std::net::Ipv4Addr) -> Result<Vec<Answer>, DevError> {
    let deadline = Instant::now() + PAGE;
    loop {
        let round = ask(address).await;
        let late = Instant::now() > deadline;
        match round {
            Ok(answers) => {
                let tasks: BTreeSet<&str> = answers.iter().map(|a| a.task.as_str()).collect();
                if tasks.len() == REPLICAS || late {
                    return Ok(answers);
                }
            }
            Err(message) if late => {
                return Err(DevError::Api {
                    what: format!("GET http://{address}:{PORT}/"),
                    message,
                });
            }
            Err(_) => (),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

async fn ask(address: std::net::Ipv4Addr) -> Result<Vec<Answer>, String> {
    let mut answers = Vec::new();
    for _ in 0..REPLICAS {
        let text = page(address, PORT, PAGE).await?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|rest| rest.trim_start_matches(':').trim().to_owned())
                .unwrap_or_default()
        };
        answers.push(Answer {
            task: field("task"),
            node: field("node"),
            client: field("client"),
        });
    }
    Ok(answers)
}

fn read_stack() -> Result<Value, DevError> {
    let sources = [Source {
        name: "hello.yml".to_owned(),
        text: COMPOSE.to_owned(),
    }];
    let mut read = |path: &str| match path.rsplit('/').next() {
        Some("hello-secret.txt") => Ok(SECRET.as_bytes().to_vec()),
        Some("hello-config.txt") => Ok(CONFIG.as_bytes().to_vec()),
        _ => Err(std::io::ErrorKind::NotFound.into()),
    };
    let options = Options {
        stack: STACK.to_owned(),
        interpolate: true,
        strict: false,
        working_dir: "/".to_owned(),
    };
    let loaded = load(&sources, &|_| None, &mut read, &options).map_err(|wrong| {
        let texts: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        DevError::Plan(texts.join("\n"))
    })?;
    serde_json::to_value(&loaded.stack).map_err(|error| DevError::Plan(error.to_string()))
}

/// Waits until every service has as many running tasks as it wants, printing each change.
async fn converge(plan: &Plan) -> Result<(), DevError> {
    let socket = plan.socket(plan.first());
    let deadline = Instant::now() + CONVERGE;
    let mut shown = String::new();
    loop {
        let services = call(&socket, Method::GET, "/services?status=true", None).await?;
        let mut line = String::new();
        let mut done = true;
        for service in services.as_array().into_iter().flatten() {
            let name = service["Spec"]["Name"].as_str().unwrap_or_default();
            let running = service["ServiceStatus"]["RunningTasks"]
                .as_u64()
                .unwrap_or(0);
            let desired = service["ServiceStatus"]["DesiredTasks"]
                .as_u64()
                .unwrap_or(0);
            line.push_str(&format!("  {name} {running}/{desired}"));
            done &= desired > 0 && running == desired;
        }
        if line != shown {
            println!("{line}");
            shown = line;
        }
        if done && !shown.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(DevError::Plan(format!(
                "the stack has not converged within {} s; `skep dev exec {} -- skep stack ps {STACK}` says why",
                CONVERGE.as_secs(),
                plan.first().name
            )));
        }
        sleep(Duration::from_millis(50)).await;
    }
}
