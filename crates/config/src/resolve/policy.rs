//! Policies of a route that are off unless asked for.

use semel_core::code::Code;
use semel_core::policy::fault::FaultPolicy;
use semel_core::policy::hedge::HedgePolicy;

use super::route::Draft;
use crate::diagnostic::Diagnostic;
use crate::effective::Effect;
use crate::raw::policy::quantile;
use crate::raw::value::{Percent, Size};

/// `repeats`: the route's effects may be attempted again while it is not known what became of them.
pub(super) fn hedge(draft: &mut Draft<'_, '_>, repeats: bool) -> Option<HedgePolicy> {
    let span = draft.layers.span(|l| l.hedge.as_ref())?;
    let effect = draft.effect.value;
    let is_used = match effect {
        Effect::Forward => false,
        Effect::Once => repeats,
        Effect::Read | Effect::Idempotent => true,
    };
    if !is_used {
        // A profile may be shared with routes that hedge.
        draft.layers.route.hedge.as_ref()?;
        let message = format!("`hedge` has no effect on a route with `effect = \"{}\"`", effect.as_str());
        let help = "a second attempt beside the first is safe on `read` and `idempotent` routes, and with \
                    `on_unknown = \"retry\"`, where the upstream honours the key";
        draft.found.push(Diagnostic::warning(Code::NO_EFFECT, span, message).help(help));
        return None;
    }
    let (d, layers) = (HedgePolicy::default(), &mut draft.layers);
    let share = layers.choose("hedge.quantile", |l| l.hedge.as_ref()?.value.quantile.as_ref(), Percent(d.quantile));
    let calls = usize::try_from(d.samples_min).unwrap_or(usize::MAX);
    let calls = layers.choose("hedge.min_calls", |l| l.hedge.as_ref()?.value.min_calls.as_ref(), calls);
    let delay = layers.choose("hedge.min_delay", |l| l.hedge.as_ref()?.value.min_delay.as_ref(), d.delay_min);
    let window = layers.choose("hedge.window", |l| l.hedge.as_ref()?.value.window.as_ref(), d.window);
    Some(HedgePolicy {
        quantile: quantile(share.value),
        samples_min: u32::try_from(calls.value).unwrap_or(u32::MAX),
        window: window.value,
        delay_min: delay.value,
    })
}

pub(super) fn fault(draft: &mut Draft<'_, '_>) -> Option<FaultPolicy> {
    let span = draft.layers.span(|l| l.fault.as_ref())?;
    let layers = &mut draft.layers;
    let delay = layers.optional("fault.delay", |l| l.fault.as_ref()?.value.delay.as_ref());
    let abort = layers.optional("fault.abort", |l| l.fault.as_ref()?.value.abort.as_ref());
    let truncate = layers.optional("fault.truncate", |l| l.fault.as_ref()?.value.truncate.as_ref());
    let only = layers.optional("fault.only", |l| l.fault.as_ref()?.value.only.as_ref());
    let by_header = layers.choose("fault.by_header", |l| l.fault.as_ref()?.value.by_header.as_ref(), false).value;
    let only = only.map(|only| only.value.0).unwrap_or_default();
    if only.len() > 1 {
        let message = "`fault.only` takes one header";
        draft.found.push(Diagnostic::error(Code::CONTRADICTION, span, message).help("leave the others out"));
    }
    draft.notes.push("faults are injected on purpose: this route fails as its `fault` says".to_owned());
    Some(FaultPolicy {
        delay: delay.map(|delay| delay.value.injected(|delay| delay)),
        abort: abort.map(|abort| abort.value.injected(|status| status)),
        truncate: truncate.map(|truncate| truncate.value.injected(|Size(bytes)| bytes)),
        only: only.into_iter().next().map(|condition| (condition.name, condition.value)),
        by_header,
    })
}
