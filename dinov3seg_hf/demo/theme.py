# Copyright 2026 The dinov3seg_hf Authors.
# Licensed under the Apache License, Version 2.0 (the "License").
"""The look of the page: colors, fonts, and the HTML, CSS and JavaScript files."""

from importlib import resources
from typing import Any

import gradio as gr

from ..serving.limits import Limits

MAX_SESSIONS = 64


def asset(name: str) -> str:
    """Returns the text of a file in `assets`."""
    return (resources.files(__package__) / "assets" / name).read_text(encoding="utf-8")


def launch_options(limits: Limits | None = None) -> dict[str, Any]:
    """Returns the arguments of `Blocks.launch` that set the look and the behavior of the page."""
    fonts = ["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.indigo,
        neutral_hue=gr.themes.colors.zinc,
        font=fonts,
        font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"],
        radius_size=gr.themes.sizes.radius_lg,
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_500",
        block_info_text_color_dark="*neutral_400",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        input_background_fill="white",
        input_border_width="1px",
        checkbox_label_background_fill="*background_fill_secondary",
        button_secondary_background_fill="*block_background_fill",
        button_secondary_background_fill_hover="*background_fill_secondary",
        button_secondary_border_color="*border_color_primary",
        button_border_width="1px",
        block_border_width="1px",
        block_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_500",
        button_primary_text_color="white",
    )
    return {
        "theme": theme,
        "css": asset("page.css"),
        "max_file_size": (limits or Limits()).file_bytes,
        "state_session_capacity": MAX_SESSIONS,
        "show_error": False,  # messages for users are raised as `gr.Error`; other errors may contain private data
        "enable_monitoring": False,
        "run_history": False,
        "ssr_mode": False,
        "pwa": False,
        "footer_links": ["api"],
        "share": False,
    }
