//! The part of Grafana's JSON model that our dashboards use (schema version 41, which Grafana 12
//! reads directly).
//! https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/

use anyhow::ensure;
use serde_json::{Map, Value, json};

use crate::{
    palette,
    source::{Board, Panel, PanelKind, PanelRow, Query, Variable},
};

/// The width of a screen, in Grafana's columns.
const COLUMNS: u32 = 24;

/// The tag of all dashboards, by which their menus find each other.
const TAG: &str = "surge";

/// Red and green of Grafana's own palette.
const RED: &str = "red";
const GREEN: &str = "green";

pub(crate) fn dashboard(board: &Board) -> anyhow::Result<Value> {
    Ok(json!({
        "uid": board.uid,
        "title": board.title,
        "description": board.about,
        "tags": [TAG],
        "timezone": "browser",
        "editable": true,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": format!("now-{}", board.look_back), "to": "now"},
        "schemaVersion": 41,
        "links": [{
            "type": "dashboards", "title": "Surge", "tags": [TAG], "asDropdown": true,
            "includeVars": false, "keepTime": true, "targetBlank": false,
            "icon": "external link", "tooltip": "", "url": "",
        }],
        "annotations": {"list": [mode_switches()]},
        "templating": {"list": board.variables.iter().map(variable).collect::<Vec<_>>()},
        "panels": panels(&board.rows)?,
    }))
}

fn prometheus() -> Value {
    json!({"type": "prometheus", "uid": "prometheus"})
}

/// Every panel marks the switches of the mode, the cause of most sudden changes.
fn mode_switches() -> Value {
    json!({
        "name": "Mode switched",
        "datasource": prometheus(),
        "enable": true,
        "hide": false,
        "iconColor": "purple",
        "expr": "changes(surge_dataflow_epoch[$__interval]) > 0",
        "titleFormat": "the mode was switched",
    })
}

fn variable(variable: &Variable) -> Value {
    let query = format!("label_values({}, {})", variable.metric, variable.label);
    json!({
        "type": "query",
        "name": variable.name,
        "label": variable.title,
        "datasource": prometheus(),
        "query": {"query": query, "refId": variable.name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": true,
        "includeAll": true,
        "current": {"text": ["All"], "value": ["$__all"]},
    })
}

/// Places panels from left to right, like words on lines, each row of panels under its heading.
fn panels(rows: &[PanelRow]) -> anyhow::Result<Vec<Value>> {
    let mut placed = Vec::new();
    let mut top = 0;
    for row in rows {
        let (id, place) = (placed.len() + 1, position(0, top, COLUMNS, 1));
        placed.push(json!({
            "id": id, "type": "row", "title": row.title, "gridPos": place,
            "collapsed": false, "panels": [],
        }));
        top += 1;
        let (mut left, mut tallest) = (0, 0);
        for panel in &row.panels {
            let fits = (1..=COLUMNS).contains(&panel.width);
            ensure!(fits, "{:?} is {} columns wide", panel.title, panel.width);
            if left + panel.width > COLUMNS {
                top += tallest;
                (left, tallest) = (0, 0);
            }
            let place = position(left, top, panel.width, panel.height);
            placed.push(drawn(panel, placed.len() + 1, &place));
            left += panel.width;
            tallest = tallest.max(panel.height);
        }
        top += tallest;
    }
    Ok(placed)
}

fn position(x: u32, y: u32, w: u32, h: u32) -> Value {
    json!({"x": x, "y": y, "w": w, "h": h})
}

fn drawn(panel: &Panel, id: usize, place: &Value) -> Value {
    let queries = ('A'..).zip(&panel.queries);
    let targets: Vec<_> = queries
        .map(|(name, query)| target(panel, name, query))
        .collect();
    let mut json = json!({
        "id": id,
        "type": plugin(panel.kind),
        "title": panel.title,
        "description": panel.about,
        "gridPos": place,
        "datasource": prometheus(),
        "targets": targets,
        "fieldConfig": {"defaults": defaults(panel), "overrides": overrides(panel)},
        "options": options(panel.kind),
    });
    if panel.kind == PanelKind::Table {
        json["transformations"] = one_row_for_each_series(panel);
    }
    json
}

const fn plugin(kind: PanelKind) -> &'static str {
    match kind {
        PanelKind::Lines | PanelKind::Areas => "timeseries",
        PanelKind::Figure => "stat",
        PanelKind::Bars => "bargauge",
        PanelKind::States => "state-timeline",
        PanelKind::Table => "table",
    }
}

/// Bars and tables show the present, so that their query asks for one point in time.
fn target(panel: &Panel, name: char, query: &Query) -> Value {
    let now = matches!(panel.kind, PanelKind::Bars | PanelKind::Table);
    let format = if panel.kind == PanelKind::Table {
        "table"
    } else {
        "time_series"
    };
    json!({
        "refId": name,
        "datasource": prometheus(),
        "editorMode": "code",
        "expr": query.expr.trim(),
        "legendFormat": query.legend,
        "instant": now,
        "range": !now,
        "format": format,
        "exemplar": panel.exemplars,
    })
}

fn defaults(panel: &Panel) -> Value {
    let mut defaults = json!({
        "unit": panel.unit,
        "color": colours(panel),
        "thresholds": {"mode": "absolute", "steps": steps(panel)},
        "mappings": mappings(panel),
        "custom": custom(panel),
    });
    if !panel.log && panel.kind != PanelKind::States {
        defaults["min"] = json!(0);
    }
    if let Some(max) = panel.max {
        defaults["max"] = json!(max);
    }
    if let Some(nothing) = &panel.nothing {
        defaults["noValue"] = json!(nothing);
    }
    defaults
}

/// Lines have colours of their own. Figures with a limit or floor are green or red.
fn colours(panel: &Panel) -> Value {
    let judged = panel.limit.is_some() || panel.floor.is_some();
    let mode = match panel.kind {
        PanelKind::Figure | PanelKind::Bars | PanelKind::Table if judged => "thresholds",
        PanelKind::Bars => "continuous-BlYlRd",
        _ => "palette-classic",
    };
    json!({"mode": mode})
}

fn steps(panel: &Panel) -> Vec<Value> {
    let step = |value: Option<f64>, colour: &str| json!({"value": value, "color": colour});
    match (panel.limit, panel.floor) {
        (Some(limit), _) => vec![step(None, GREEN), step(Some(limit), RED)],
        (None, Some(floor)) => vec![step(None, RED), step(Some(floor), GREEN)],
        (None, None) => vec![step(None, GREEN)],
    }
}

fn mappings(panel: &Panel) -> Vec<Value> {
    if panel.words.is_empty() {
        return Vec::new();
    }
    let words = panel
        .words
        .iter()
        .enumerate()
        .map(|(index, (value, word))| (value.clone(), json!({"text": word, "index": index})));
    vec![json!({"type": "value", "options": words.collect::<Map<_, _>>()})]
}

fn custom(panel: &Panel) -> Value {
    match panel.kind {
        PanelKind::Lines | PanelKind::Areas => lines(panel),
        PanelKind::States => json!({"fillOpacity": 80, "lineWidth": 0}),
        PanelKind::Table => json!({"cellOptions": {"type": "color-text"}, "align": "auto"}),
        PanelKind::Figure | PanelKind::Bars => json!({}),
    }
}

fn lines(panel: &Panel) -> Value {
    let scale = if panel.log {
        json!({"type": "log", "log": 10})
    } else {
        json!({"type": "linear"})
    };
    let judged = panel.limit.is_some() || panel.floor.is_some();
    let stacked = panel.kind == PanelKind::Areas;
    json!({
        "drawStyle": "line",
        "lineWidth": 2,
        "fillOpacity": if stacked { 40 } else { 0 },
        "stacking": {"mode": if stacked { "normal" } else { "none" }, "group": "A"},
        "showPoints": "never",
        // A gap is shown after twice the longest normal pause between two scrapes.
        "spanNulls": 60_000,
        "scaleDistribution": scale,
        "thresholdsStyle": {"mode": if judged { "dashed" } else { "off" }},
    })
}

/// The style of the modes, the same everywhere; Grafana chooses that of other series.
fn overrides(panel: &Panel) -> Vec<Value> {
    let of_modes = |query: &Query| query.legend.starts_with("{{dataflow}}");
    let judged =
        panel.kind == PanelKind::Figure && (panel.limit.is_some() || panel.floor.is_some());
    if panel.kind == PanelKind::Table || judged || !panel.queries.iter().any(of_modes) {
        return Vec::new();
    }
    palette::overrides()
}

fn options(kind: PanelKind) -> Value {
    let newest = json!({"calcs": ["lastNotNull"], "fields": "", "values": false});
    let legend =
        json!({"showLegend": true, "displayMode": "list", "placement": "bottom", "calcs": []});
    match kind {
        PanelKind::Lines | PanelKind::Areas => json!({
            "legend": legend,
            "tooltip": {"mode": "multi", "sort": "desc"},
        }),
        PanelKind::Figure => json!({
            "reduceOptions": newest, "graphMode": "area", "colorMode": "value",
            "justifyMode": "auto", "textMode": "auto", "orientation": "auto", "wideLayout": true,
        }),
        PanelKind::Bars => json!({
            "reduceOptions": newest, "displayMode": "gradient", "orientation": "horizontal",
            "showUnfilled": true, "valueMode": "color", "namePlacement": "auto", "sizing": "auto",
        }),
        PanelKind::States => json!({
            "showValue": "auto", "mergeValues": true, "rowHeight": 0.8,
            "legend": {
                "showLegend": false, "displayMode": "list", "placement": "bottom", "calcs": []
            },
            "tooltip": {"mode": "single", "sort": "none"},
        }),
        PanelKind::Table => json!({"showHeader": true, "cellHeight": "sm"}),
    }
}

/// Joins the answers of all queries by their labels and names the columns as the source does.
fn one_row_for_each_series(panel: &Panel) -> Value {
    let columns = ('A'..)
        .zip(&panel.queries)
        .map(|(name, query)| (format!("Value #{name}"), json!(query.legend)));
    json!([
        {"id": "merge", "options": {}},
        {"id": "organize", "options": {
            "excludeByName": {"Time": true},
            "indexByName": {},
            "renameByName": columns.collect::<Map<_, _>>(),
        }},
    ])
}
