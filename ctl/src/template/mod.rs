//! Go templates for `--format`: text with `{{actions}}`, evaluated over JSON.
//!
//! What docker's users write is here: fields, variables, pipelines, `if`, `range`, `with`,
//! comparisons, and docker's own functions. `define` and `template` are not.

mod eval;
mod functions;
mod lex;
mod parse;

pub use eval::{Dot, Missing};
pub use functions::Dialect;

use parse::Node;

/// A template that was understood.
#[derive(Debug, Clone)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
}

impl Template {
    /// Reads a template. The error is what Go says, without `template parsing error: `.
    pub fn parse(text: &str) -> Result<Self, String> {
        Ok(Self {
            text: text.to_owned(),
            nodes: parse::parse(text)?,
        })
    }

    /// The text for one value.
    pub fn run(&self, dot: &Dot<'_>) -> Result<String, String> {
        eval::run(&self.text, &self.nodes, dot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;

    fn run(template: &str, json: &str) -> Result<String, String> {
        let value = Json::parse(json.as_bytes()).unwrap();
        Template::parse(template)?.run(&Dot::of(&value))
    }

    #[test]
    fn templates_mean_what_they_mean_in_go() {
        let json = r#"{"Name":"/web","N":3,"Ok":true,"Off":false,"F":1.5,"Tags":["a","b"],"Map":{"z":"1","a":"2"},
            "State":{"Status":"running","Pid":7},"Big":12345678901,"Empty":"","Ports":{"80/tcp":[{"HostPort":"8080"}]}}"#;
        for (template, text) in [
            ("{{.Name}}", "/web"),
            ("{{ .State.Status }}-{{.N}}", "running-3"),
            ("{{.State.PID}}", "7"),
            ("{{json .State}}", r#"{"Status":"running","Pid":7}"#),
            ("{{.State | json}}", r#"{"Status":"running","Pid":7}"#),
            ("{{.Tags}} {{.Map}}", "[a b] map[a:2 z:1]"),
            ("{{range .Tags}}<{{.}}>{{end}}", "<a><b>"),
            (
                "{{range $i, $t := .Tags}}{{if $i}},{{end}}{{$i}}={{$t}}{{end}}",
                "0=a,1=b",
            ),
            ("{{range $k, $v := .Map}}{{$k}}:{{$v}};{{end}}", "a:2;z:1;"),
            ("{{range .Nothing}}x{{else}}none{{end}}", "none"),
            ("{{if .Ok}}yes{{else}}no{{end}}", "yes"),
            (
                "{{if .Off}}yes{{else if .Empty}}maybe{{else}}no{{end}}",
                "no",
            ),
            ("{{if and .Ok (not .Off)}}y{{end}}", "y"),
            ("{{if or .Off (eq .N 3)}}y{{end}}", "y"),
            (
                "{{if eq .State.Status \"running\" \"paused\"}}y{{end}}",
                "y",
            ),
            (
                "{{if gt .N 2}}y{{end}}{{if lt .F 1.6}}z{{end}}{{if ne .Name `x`}}w{{end}}",
                "yzw",
            ),
            ("{{with .State}}{{.Pid}}{{end}}", "7"),
            ("{{with $x := .N}}{{$x}}{{end}}", "3"),
            ("{{$s := .State}}{{$s.Pid}}", "7"),
            ("{{join .Tags \", \"}}", "a, b"),
            (
                "{{upper .State.Status}} {{lower \"ABC\"}} {{title \"abc def\"}}",
                "RUNNING abc Abc Def",
            ),
            ("{{split \"a:b:c\" \":\"}}", "[a b c]"),
            ("{{pad .N 1 2}}|{{pad \"x\" 1 2}}|", ""),
            ("{{truncate .Name 3}}", "/we"),
            (
                "{{printf \"%s-%d %v %q %5s|%-5s|\" .Name .N .Ok .Name \"r\" \"l\"}}",
                "/web-3 true \"/web\"     r|l    |",
            ),
            ("{{println .N .Ok}}", "3 true\n"),
            ("{{print .N .Big \"a\" \"b\"}}", "3 12345678901ab"),
            (
                "{{len .Tags}}{{len .Name}}{{index .Tags 1}}{{index .Map \"z\"}}",
                "24b1",
            ),
            ("{{(index (index .Ports \"80/tcp\") 0).HostPort}}", "8080"),
            ("{{slice .Name 1}}", "web"),
            ("a  {{- .N -}}  b", "a3b"),
            ("{{/* nothing */}}x", "x"),
            ("{{.Big}} {{.F}}", "12345678901 1.5"),
            ("{{\"x\" | printf \"%s-%s\" \"y\"}}", "y-x"),
            ("{{range .Tags}}{{$.N}}{{break}}{{end}}", "3"),
            ("{{html \"<a>\"}}", "&lt;a&gt;"),
        ] {
            if text.is_empty() {
                assert!(run(template, json).is_err(), "{template}");
            } else {
                assert_eq!(run(template, json).as_deref(), Ok(text), "{template}");
            }
        }
    }

    #[test]
    fn errors_are_gos() {
        for (template, error) in [
            (
                "{{.Foo}}",
                "template: :1:2: executing \"\" at <.Foo>: map has no entry for key \"Foo\"",
            ),
            (
                "{{.State.Foo}}",
                "template: :1:8: executing \"\" at <.State.Foo>: map has no entry for key \"Foo\"",
            ),
            ("{{.Foo", "template: :1: unclosed action"),
            ("{{foo}}", "template: :1: function \"foo\" not defined"),
            ("{{if .N}}", "template: :1: unexpected EOF"),
            ("{{end}}", "template: :1: unexpected {{end}}"),
            (
                "{{.N.X}}",
                "template: :1:4: executing \"\" at <.N.X>: can't evaluate field X in type interface {}",
            ),
        ] {
            assert_eq!(
                run(template, r#"{"N":1,"State":{}}"#),
                Err(error.to_owned()),
                "{template}"
            );
        }
    }
}
