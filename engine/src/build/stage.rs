//! Goes through the stages, step by step.

use std::sync::Arc;

use skep_dockerfile::{Argument, Expander, Instruction, Stage, Step, parse_trigger};

use super::Build;
use super::metadata::{self, Literal, Words};
use super::state::State;
use crate::error::{EngineError, Result};
use crate::image::Image;

impl Build {
    /// All stages; the last one's image.
    pub(super) async fn run(mut self) -> Result<Arc<Image>> {
        let stages = std::mem::take(&mut self.file.stages);
        // Names and numbers of stages are looked up while they are built.
        self.file.stages.clone_from(&stages);
        let globals = self.file.arguments.clone();
        let total = globals.len()
            + stages
                .iter()
                .map(|stage| 1 + stage.steps.len())
                .sum::<usize>();
        let mut number = 0;
        for step in &globals {
            self.announce(&mut number, total, &step.original).await?;
            if let Instruction::Arg(arguments) = &step.instruction {
                for argument in arguments {
                    let value = match &argument.value {
                        Some(value) => Some(self.expand_global(value)?),
                        None => None,
                    };
                    self.args.declare_global(Argument {
                        key: argument.key.clone(),
                        value,
                    });
                }
            }
        }
        for (index, stage) in stages.iter().enumerate() {
            self.announce(&mut number, total, &stage.original).await?;
            let image = self.stage(index, stage, &mut number, total).await?;
            self.finished.push(image);
        }
        let unused = self.args.unused();
        if !unused.is_empty() {
            self.output
                .say(format!(
                    "[Warning] One or more build-args [{}] were not consumed\n",
                    unused.join(" ")
                ))
                .await?;
        }
        self.finished.pop().flatten().ok_or_else(|| {
            EngineError::invalid("No image was generated. Is your Dockerfile empty?")
        })
    }

    async fn announce(&self, number: &mut usize, total: usize, text: &str) -> Result<()> {
        *number += 1;
        self.output
            .say(format!("Step {number}/{total} : {text}"))
            .await?;
        self.output.say("\n").await
    }

    async fn stage(
        &mut self,
        index: usize,
        stage: &Stage,
        number: &mut usize,
        total: usize,
    ) -> Result<Option<Arc<Image>>> {
        self.args.begin_stage();
        let mut state = self.begin(index, stage).await?;
        self.triggers(&mut state).await?;
        self.output
            .say(format!(" ---> {}\n", state.short()))
            .await?;
        for step in &stage.steps {
            self.announce(number, total, &step.original).await?;
            self.step(&mut state, step).await?;
            self.output
                .say(format!(" ---> {}\n", state.short()))
                .await?;
        }
        if let Some(id) = state.id() {
            self.output.aux(id.as_str()).await?;
        }
        Ok(state.image)
    }

    /// What the base image's `ONBUILD` asks for.
    async fn triggers(&mut self, state: &mut State) -> Result<()> {
        let triggers = state.config.on_build.take().unwrap_or_default();
        if triggers.is_empty() {
            return Ok(());
        }
        let plural = if triggers.len() == 1 { "" } else { "s" };
        self.output
            .say(format!(
                "# Executing {} build trigger{plural}\n",
                triggers.len()
            ))
            .await?;
        for trigger in triggers {
            let step = parse_trigger(&trigger).map_err(|error| {
                EngineError::invalid(format!("ONBUILD {trigger}: {}", error.message))
            })?;
            self.step(state, &step).await?;
        }
        Ok(())
    }

    async fn step(&mut self, state: &mut State, step: &Step) -> Result<()> {
        match &step.instruction {
            Instruction::Run(run) => self.run_step(state, run).await,
            Instruction::Copy(copy) => self.copy_step(state, copy, "COPY").await,
            Instruction::Add(copy) => self.copy_step(state, copy, "ADD").await,
            Instruction::Workdir(path) => self.workdir_step(state, path).await,
            Instruction::Arg(arguments) => self.argument_step(state, arguments).await,
            Instruction::Maintainer(author) => {
                state.author.clone_from(author);
                self.commit_metadata(state, &format!("MAINTAINER {author}"))
                    .await
            }
            other => {
                let comment = self.change(state, other, step.literal)?;
                self.commit_metadata(state, &comment).await
            }
        }
    }

    /// Changes the configuration.
    fn change(
        &self,
        state: &mut State,
        instruction: &Instruction,
        literal: bool,
    ) -> Result<String> {
        let variables = state.variables(&self.args);
        let lookup = |name: &str| variables.get(name).cloned();
        let expander = Expander::new(state.escape, &lookup);
        let words: &dyn Words = if literal { &Literal } else { &expander };
        let comment = metadata::apply(&mut state.config, instruction, words)?;
        match instruction {
            Instruction::Cmd(_) => state.has_command = true,
            // The base image's command was meant for its own entrypoint.
            Instruction::Entrypoint(_) if !state.has_command => state.config.cmd = None,
            _ => {}
        }
        comment.ok_or_else(|| EngineError::internal("an instruction was not understood"))
    }

    async fn argument_step(&mut self, state: &mut State, arguments: &[Argument]) -> Result<()> {
        let mut comment = String::from("ARG");
        for argument in arguments {
            let key = state.expand(&self.args, &argument.key)?;
            let value = match &argument.value {
                Some(value) => Some(state.expand(&self.args, value)?),
                None => None,
            };
            comment = match &value {
                Some(value) => format!("{comment} {key}={value}"),
                None => format!("{comment} {key}"),
            };
            self.args.declare(Argument { key, value });
        }
        self.commit_metadata(state, &comment).await
    }
}
