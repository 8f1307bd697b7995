// Texts of the page whose contrast against what is behind them is less than 4.5:1 (WCAG 2.2, 1.4.3), as sentences.
() => {
    const parse = color => {
        const parts = (color.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
        return (color.startsWith('color(') ? parts.map((p, i) => i < 3 ? 255 * p : p) : parts).concat(1).slice(0, 4);
    };
    const luminance = color => color.slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const over = (front, back) => [0, 1, 2].map(i => front[i] * front[3] + back[i] * (1 - front[3])).concat(1);
    const behind = element => {
        const layers = [];
        for (let each = element; each; each = each.parentElement) {
            const color = parse(getComputedStyle(each).backgroundColor);
            if (color[3] > 0) layers.push(color);
            if (color[3] >= 1) break;
        }
        return layers.reverse().reduce((back, front) => over(front, back), [255, 255, 255, 1]);
    };
    const found = new Set(), texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode, element = text.parentElement;
        if (!text.textContent.trim() || !element || element.closest('script, style, noscript, [aria-hidden=true], :disabled, [aria-disabled=true], [role=slider], [data-testid=stSliderThumbValue], [data-testid=stSlider]')) continue;
        const {width, height} = element.getBoundingClientRect(), style = getComputedStyle(element);
        if (width < 2 || height < 2 || style.visibility === 'hidden') continue;
        const drawing = element.closest('svg'), color = parse(drawing ? style.fill : style.color);
        if (drawing && element.closest('.role-mark') && style.fill !== getComputedStyle(drawing).color) continue;  // in a mark's colour
        for (let each = element; each; each = each.parentElement) color[3] *= parseFloat(getComputedStyle(each).opacity);
        if (color[3] === 0) continue;
        const back = behind(drawing ? drawing.parentElement : element);
        const [dark, light] = [luminance(over(color, back)), luminance(back)].sort((a, b) => a - b);
        const contrast = (light + 0.05) / (dark + 0.05);
        if (contrast < 4.5) found.add(`contrast ${contrast.toFixed(1)}: "${text.textContent.slice(0, 40)}"`);
    }
    return [...found];
}
