"""Typefaces from packages of the index, so that no machine's own fonts matter.

Those of EVALUATION are never seen in training.
"""

from functools import cache
from importlib import resources

from PIL import ImageFont

TRAINING = (
    "matplotlib:mpl-data/fonts/ttf/DejaVuSans.ttf",
    "matplotlib:mpl-data/fonts/ttf/DejaVuSans-Bold.ttf",
    "matplotlib:mpl-data/fonts/ttf/DejaVuSansMono.ttf",
    "matplotlib:mpl-data/fonts/ttf/DejaVuSansMono-Bold.ttf",
    "matplotlib:mpl-data/fonts/ttf/DejaVuSerif.ttf",
    "matplotlib:mpl-data/fonts/ttf/DejaVuSerif-Bold.ttf",
    "matplotlib:mpl-data/fonts/ttf/STIXGeneral.ttf",
    "matplotlib:mpl-data/fonts/ttf/STIXGeneralBol.ttf",
    "font_roboto:files/Roboto-Regular.ttf",
    "font_roboto:files/Roboto-Medium.ttf",
    "font_roboto:files/Roboto-Bold.ttf",
    "font_source_sans_pro:files/SourceSansPro-Regular.ttf",
    "font_source_sans_pro:files/SourceSansPro-Bold.ttf",
    "font_caladea:files/Caladea-Regular.ttf",
    "font_caladea:files/Caladea-Bold.ttf",
    "font_lato:files/Lato-Regular.ttf",
    "font_lato:files/Lato-Bold.ttf",
    "font_manrope:files/Manrope-Medium.ttf",
    "font_manrope:files/Manrope-Bold.ttf",
    "font_fredoka_one:files/FredokaOne-Regular.ttf",
)
EVALUATION = (
    "font_hanken_grotesk:files/HankenGrotesk-Regular.otf",
    "font_hanken_grotesk:files/HankenGrotesk-Bold.otf",
    "font_rhd:files/RedHatDisplay-Medium.ttf",
    "font_rhd:files/RedHatDisplay-Bold.ttf",
    "font_source_serif_pro:files/SourceSerifPro-Regular.ttf",
    "font_source_serif_pro:files/SourceSerifPro-Bold.ttf",
)


@cache
def typeface(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A face of the lists above; size in pixels of its em."""
    package, path = name.split(":")
    with resources.as_file(resources.files(package).joinpath(path)) as file:
        return ImageFont.truetype(str(file), size)
