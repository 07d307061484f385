//! `tidegate bench compare`.

use std::fs;
use std::path::Path;

use comfy_table::Cell;
use loadgen::{
    ComparedFigure, Report, SettingDifference, compare_figures, compare_settings, group_thousands, plot_svg,
};
use serde_json::json;

use super::write_file;
use crate::cli::{GlobalArgs, Output, output};

/// Prints the figures of two saved runs side by side. Plots both runs into the file `plot`.
pub fn run(global: &GlobalArgs, before: &Path, after: &Path, plot: Option<&Path>) -> Result<(), String> {
    let (first, second) = (read_report(before)?, read_report(after)?);
    if let Some(path) = plot {
        let names = [before.display().to_string(), after.display().to_string()];
        let svg = plot_svg(&[(&names[0], &first), (&names[1], &second)]).map_err(|error| error.to_string())?;
        write_file(path, &svg)?;
    }
    let (figures, differences) = (compare_figures(&first, &second), compare_settings(&first, &second));
    match global.output {
        Output::Json => print_json(&figures, &differences),
        Output::Table => print_table(&figures, &differences),
    }
    Ok(())
}

fn read_report(path: &Path) -> Result<Report, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: expected a saved run: {error}", path.display()))
}

fn print_json(figures: &[ComparedFigure], differences: &[SettingDifference]) {
    let figure =
        |f: &ComparedFigure| json!({ "what": f.name, "before": f.before, "after": f.after, "ratio": f.ratio() });
    let difference = |d: &SettingDifference| json!({ "what": d.name, "before": d.before, "after": d.after });
    let lines: Vec<_> = figures.iter().map(figure).collect();
    let differ: Vec<_> = differences.iter().map(difference).collect();
    outln!("{}", json!({ "differ": differ, "lines": lines }));
}

fn print_table(figures: &[ComparedFigure], differences: &[SettingDifference]) {
    for SettingDifference { name, before, after } in differences {
        outln!("{name} differs: {before} and {after}");
    }
    let mut table = output::table(&["", "before", "after", "ratio"]);
    for figure in figures {
        let ratio = figure.ratio().map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
        let ratio = figure.is_better().map_or_else(|| Cell::new(&ratio), |better| output::verdict(&ratio, better));
        let value = |value: Option<f64>| Cell::new(value.map_or_else(|| "-".to_owned(), group_thousands));
        table.add_row(vec![Cell::new(figure.name), value(figure.before), value(figure.after), ratio]);
    }
    outln!("{table}");
}
