"""Colours of the page. Nothing is fetched from elsewhere: the letters of Gradio's default theme come with Gradio."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors


def theme() -> gr.themes.Base:
    """Gradio's default, with contrast enough for white on orange and for quiet text."""
    return gr.themes.Default(primary_hue=colors.orange, neutral_hue=colors.slate).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        slider_color="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
