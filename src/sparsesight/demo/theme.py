"""Colours and fonts of the page. Nothing is fetched from elsewhere: the fonts come with Gradio."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors, fonts


def theme() -> gr.themes.Base:
    """Gradio's default, with enough contrast for white on orange and for secondary text."""
    made = gr.themes.Default(
        primary_hue=colors.orange,
        neutral_hue=colors.slate,
        # Gradio ships few letters of weight 600: the browser would take bold text from another font.
        font=(fonts.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"),
    )
    return made.set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        slider_color="*primary_600",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
    )
