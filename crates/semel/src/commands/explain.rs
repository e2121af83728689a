//! `semel explain`

use anstream::{print, println};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use semel_config::{Config, NoRoute, explain};
use semel_core::code::Code;

use crate::Outcome;
use crate::config_file::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::pages::page;

/// Show what happens to a request and where each value comes from, or what an error code means
///
///   semel explain POST /v1/payments    the effective policy of a request
///   semel explain SM0007               an error code and its remedy
///   semel explain                      the process' own values and all routes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Explain {
    /// A method and a path, or an error code
    #[arg(value_names = ["METHOD|CODE", "PATH"], num_args = 0..=2)]
    what: Vec<String>,
    #[command(flatten)]
    config: ConfigFile,
    /// The request's Host, for routes that have one
    #[arg(long)]
    host: Option<String>,
    /// A header of the request, for routes with conditions (may be repeated)
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON instead of text: the contract that a client can read
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(self) -> Outcome {
        match self.what.as_slice() {
            [] => {
                print!("{}", self.config.load()?.describe());
                Ok(Exit::Done)
            }
            [code] => explain_code(code),
            [method, path, ..] => self.explain_request(&self.config.load()?, method, path),
        }
    }

    fn explain_request(&self, config: &Config, method: &str, path: &str) -> Outcome {
        let method: Method = method
            .to_ascii_uppercase()
            .parse()
            .map_err(|_| Failure::new(Exit::NotFound, format!("{method:?} is not a method")))?;
        let headers: HeaderMap = self.headers.iter().cloned().collect();
        let explanation = explain(config, &method, self.host.as_deref(), path, &headers).map_err(|none| {
            let failure = Failure::new(Exit::NotFound, format!("{method} {path}: {none}"));
            match none {
                NoRoute::Path(_) => failure,
                NoRoute::NotFound | NoRoute::Method(_) => failure.help("`semel explain` lists all routes"),
            }
        })?;
        if self.json {
            println!("{:#}", explanation.json());
        } else {
            print!("{}", explanation.text());
        }
        Ok(Exit::Done)
    }
}

fn explain_code(code: &str) -> Outcome {
    let code: Code = code.parse().map_err(|error: semel_core::code::NoSuchCode| {
        Failure::new(Exit::NotFound, error.to_string()).help("for a request: `semel explain METHOD PATH`")
    })?;
    print!("{}", page(code));
    Ok(Exit::Done)
}

/// Reads `name: value`.
pub(super) fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("write it as `name: value`")?;
    let name = name.trim().parse().map_err(|_| format!("{name:?} is not the name of a header"))?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| "not a header's value")?;
    Ok((name, value))
}
