//! Logs on standard error: for people on a terminal, as JSON for everything else.

use std::fmt;
use std::io::IsTerminal;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// The environment variable that chooses what is logged.
pub(crate) const FILTER_VARIABLE: &str = "ROOST_LOG";

/// What to do about a filter that cannot be read.
pub(crate) const FILTER_HELP: &str = "set ROOST_LOG, or log.filter in a node's configuration file, to a level (error, warn, info, \
     debug, trace) or to directives like roost=debug";

/// How logs look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// For people.
    Pretty,
    /// One JSON object per line.
    Json,
}

/// How much is said, unless a filter says it in detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// Only errors.
    Quiet,
    /// Changes of state.
    Normal,
    /// What led to them.
    Verbose,
    /// Everything of ours, and what the libraries have to say.
    Everything,
}

impl Level {
    /// From `-v`, `-vv` and `-q`.
    pub(crate) fn chosen(verbose: u8, quiet: bool) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (false, 0) => Self::Normal,
            (false, 1) => Self::Verbose,
            (false, _) => Self::Everything,
        }
    }

    fn directives(self) -> &'static str {
        match self {
            Self::Quiet => "error",
            // Libraries say "info" for what an operator cannot act on.
            Self::Normal => "warn,roost=info",
            Self::Verbose => "warn,roost=debug",
            Self::Everything => "debug,roost=trace",
        }
    }
}

/// What decides how logs are written.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// From `--log-format` or ROOST_LOG_FORMAT.
    pub(crate) format: Format,
    /// From `-v` and `-q`.
    pub(crate) level: Level,
    /// From ROOST_LOG.
    pub(crate) filter: Option<String>,
}

impl Settings {
    /// Takes what the configuration file says where nothing else was said.
    pub(crate) fn prefer(&mut self, format: Option<Format>, filter: Option<&str>) {
        if self.format == Format::Auto {
            self.format = format.unwrap_or_default();
        }
        if self.filter.is_none() && self.level == Level::Normal {
            self.filter = filter.map(str::to_owned);
        }
    }

    fn filter(&self) -> Result<EnvFilter, String> {
        let directives = self.filter.as_deref().unwrap_or_else(|| self.level.directives());
        EnvFilter::try_new(directives).map_err(|error| format!("`{directives}`: {error}"))
    }
}

type Reload = Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

/// Changes the filter of the running process.
static RELOAD: OnceLock<Reload> = OnceLock::new();

/// Starts logging for the whole process.
pub(crate) fn start(settings: &Settings, color: bool) -> Result<(), String> {
    // A terminal that was closed, or a full disk behind standard error, must not stop the process.
    let log = tracing_subscriber::fmt()
        .with_env_filter(settings.filter()?)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let pretty = match settings.format {
        Format::Pretty => true,
        Format::Json => false,
        Format::Auto => std::io::stderr().is_terminal(),
    };
    let (started, reload): (_, Reload) = if pretty {
        let log = log.compact().with_target(false).with_ansi(color).with_filter_reloading();
        let handle = log.reload_handle();
        (log.try_init(), Box::new(move |new| handle.reload(new).map_err(|e| e.to_string())))
    } else {
        let log = log.fmt_fields(JsonFields::new()).event_format(JsonLine).with_filter_reloading();
        let handle = log.reload_handle();
        (log.try_init(), Box::new(move |new| handle.reload(new).map_err(|e| e.to_string())))
    };
    started.map_err(|error| error.to_string())?;
    RELOAD.get_or_init(|| reload);
    Ok(())
}

/// Logs what these settings say from now on, in the format as it was.
pub(crate) fn refilter(settings: &Settings) -> Result<(), String> {
    let filter = settings.filter()?;
    RELOAD.get().map_or(Ok(()), |reload| reload(filter))
}

/// One JSON object per event: `ts`, `level`, `msg`, `target`, in a node that knows them `node` and
/// `mesh`, then the fields of the enclosing spans from the outside in, then the event's own.
#[derive(Debug)]
struct JsonLine;

impl<S> FormatEvent<S, JsonFields> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, JsonFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut own = Fields::default();
        event.record(&mut own);
        let metadata = event.metadata();
        let mut object = Map::new();
        object.insert("ts".to_owned(), format!("{:.3}", jiff::Timestamp::now()).into());
        object.insert("level".to_owned(), metadata.level().as_str().to_ascii_lowercase().into());
        object.insert("msg".to_owned(), own.message.into());
        object.insert("target".to_owned(), metadata.target().into());
        let (node, mesh) = roost::node::identity();
        for (name, value) in [("node", node), ("mesh", mesh)] {
            if let Some(value) = value {
                object.insert(name.to_owned(), value.into());
            }
        }
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let Some(fields) = extensions.get::<FormattedFields<JsonFields>>() else { continue };
            if let Ok(fields) = serde_json::from_str::<Map<String, Value>>(fields) {
                object.extend(fields);
            }
        }
        object.extend(own.fields);
        writeln!(writer, "{}", Value::Object(object))
    }
}

/// The fields of one event as JSON.
#[derive(Debug, Default)]
struct Fields {
    message: String,
    fields: Map<String, Value>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.fields.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field, format!("{value:?}").into());
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, value.into());
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_json_object_with_the_fields_of_its_spans() {
        let captured = Captured::default();
        let sink = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || sink.clone())
            .fmt_fields(JsonFields::new())
            .event_format(JsonLine)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let _span = tracing::info_span!("node", node = "n1").entered();
            tracing::info!(event = "encoder.rehomed", dur_ms = 12, "moved {}", "cam-1");
        });
        let bytes = captured.0.lock().unwrap().clone();
        let line: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(line["level"], "info");
        assert_eq!(line["msg"], "moved cam-1");
        assert_eq!(line["node"], "n1");
        assert_eq!(line["event"], "encoder.rehomed");
        assert_eq!(line["dur_ms"], 12);
        assert!(line["ts"].as_str().is_some_and(|ts| ts.ends_with('Z')), "{line}");
        assert!(line["target"].as_str().is_some_and(|target| target.contains("logging")));
    }

    #[test]
    fn the_file_speaks_only_where_nobody_else_did() {
        let mut log = Settings { format: Format::Json, level: Level::Normal, filter: None };
        log.prefer(Some(Format::Pretty), Some("debug"));
        assert_eq!((log.format, log.filter.as_deref()), (Format::Json, Some("debug")));
        log.prefer(None, Some("trace"));
        assert_eq!(log.filter.as_deref(), Some("debug"));
    }
}
